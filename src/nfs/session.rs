//! Clients, and their sessions (RFC 8881, sections 2.4, 2.10 and 8.3).
//!
//! ```text
//! EXCHANGE_ID ─▶ unconfirmed ──CREATE_SESSION──▶ confirmed ──no request for a lease──▶ courteous ──▶ gone
//!                     └── not within a lease ──▶ gone         a request brings it back   somebody wants what it holds, or a day
//! ```
//!
//! A client that says another verifier has begun a new life: what its old one held goes when the new one is confirmed.

mod grace;
mod records;
mod slot;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use types::{Clock, Instant};

pub(crate) use slot::Begun;

use crate::lock;
use crate::proto::{SessionId, Status, Verifier};
use crate::state::{Held, Locks};
use grace::Grace;
use records::Records;
use slot::Slot;

/// How long what a lost client holds is kept for it, if nobody else wants it.
const COURTESY: Duration = Duration::from_secs(24 * 3600);
/// More clients than a file system of EFS has connections.
const CLIENTS_MAX: usize = 25_000;
const SESSIONS_PER_CLIENT_MAX: usize = 16;

/// A machine that uses files, for one life of it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    owner: Box<[u8]>,
    verifier: Verifier,
    principal: u32,
    renewed_ms: AtomicU64,
    /// It has taken back what it had, or had nothing.
    has_reclaimed: AtomicBool,
    pub(crate) creation: Mutex<Creation>,
    pub(crate) held: Mutex<Held>,
}

/// The one slot for creating sessions (section 18.36.4).
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) sequence: u32,
    /// What the last one was answered.
    pub(crate) answer: Option<Vec<u8>>,
}

impl Client {
    pub(crate) fn has_reclaimed(&self) -> bool {
        self.has_reclaimed.load(Ordering::Acquire)
    }

    fn age(&self, now: Instant) -> Duration {
        now.since(Instant(Duration::from_millis(self.renewed_ms.load(Ordering::Relaxed))))
    }

    fn renew(&self, now: Instant) {
        let ms = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        self.renewed_ms.store(ms, Ordering::Relaxed);
    }
}

/// How large and how many the requests of a session may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) cached_bytes: usize,
    pub(crate) operations: usize,
    pub(crate) slots: usize,
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client: Arc<Client>,
    pub(crate) limits: Limits,
    slots: Box<[Mutex<Slot>]>,
    is_over: AtomicBool,
}

impl Session {
    /// # Errors
    /// `BadSlot`
    pub(crate) fn slot(&self, number: u32) -> Result<&Mutex<Slot>, Status> {
        let number = usize::try_from(number).map_err(|_| Status::BadSlot)?;
        self.slots.get(number).ok_or(Status::BadSlot)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<u64, Arc<Client>>,
    owners: HashMap<Box<[u8]>, Lives>,
    sessions: HashMap<SessionId, Arc<Session>>,
    count: u32,
}

/// The lives of one client that are known: which may use files, and which has only said that it is there.
#[derive(Debug, Default)]
struct Lives {
    confirmed: Option<u64>,
    unconfirmed: Option<u64>,
}

/// What a client says who it is.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) verifier: Verifier,
    pub(crate) principal: u32,
    pub(crate) is_update: bool,
}

/// All clients.
pub(crate) struct Clients {
    table: Mutex<Table>,
    pub(crate) locks: Locks,
    records: Records,
    grace: Grace,
    clock: Arc<dyn Clock>,
    pub(crate) lease: Duration,
    /// Tells what this server gave out from what others did, and what it did before it was restarted.
    pub(crate) boot: u32,
    states: AtomicU64,
}

impl Clients {
    /// Those of a server that begins, and which may take back what is written down in `state`.
    pub(crate) fn open(state: &Path, clock: Arc<dyn Clock>, lease: Duration, boot: u32) -> io::Result<Self> {
        let (records, owners) = Records::open(state)?;
        let grace = Grace::new(clock.now().after(lease), owners);
        Ok(Self {
            table: Mutex::default(),
            locks: Locks::default(),
            records,
            grace,
            clock,
            lease,
            boot,
            states: AtomicU64::new(0),
        })
    }

    /// A number that no other state has.
    pub(crate) fn next_state(&self) -> u64 {
        self.states.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn in_grace(&self) -> bool {
        self.grace.is_on(self.clock.now())
    }

    /// Whether `client` may take back what it had.
    ///
    /// # Errors
    /// Why not: `NoGrace` or `ReclaimBad`.
    pub(crate) fn may_reclaim(&self, client: &Client) -> Result<(), Status> {
        match (self.in_grace() && !client.has_reclaimed(), self.grace.awaits(&client.owner)) {
            (false, _) => Err(Status::NoGrace),
            (true, false) => Err(Status::ReclaimBad),
            (true, true) => Ok(()),
        }
    }

    /// EXCHANGE_ID: the client, and whether it is confirmed already (section 18.35.4, the cases in their order there).
    pub(crate) fn exchange(&self, claim: &Claim<'_>) -> Result<(Arc<Client>, bool), Status> {
        let now = self.clock.now();
        let mut table = lock(&self.table);
        let confirmed = table.owners.get(claim.owner).and_then(|lives| lives.confirmed);
        let confirmed = confirmed.and_then(|id| table.clients.get(&id).cloned());
        if claim.is_update {
            let client = confirmed.ok_or(Status::NoEnt)?;
            return match client {
                _ if client.verifier != claim.verifier => Err(Status::NotSame),
                _ if client.principal != claim.principal => Err(Status::Perm),
                _ => Ok((client, true)),
            };
        }
        if let Some(client) = confirmed {
            if client.principal != claim.principal {
                if client.age(now) <= self.lease && !lock(&client.held).is_empty() {
                    return Err(Status::ClidInUse);
                }
                self.end(&mut table, &client)?;
            } else if client.verifier == claim.verifier {
                client.renew(now);
                return Ok((client, true));
            }
        }
        if table.clients.len() >= CLIENTS_MAX {
            return Err(Status::Delay);
        }
        Ok((self.begin(&mut table, claim, now), false))
    }

    fn begin(&self, table: &mut Table, claim: &Claim<'_>, now: Instant) -> Arc<Client> {
        table.count = table.count.wrapping_add(1);
        let client = Arc::new(Client {
            id: u64::from(self.boot) << 32 | u64::from(table.count),
            owner: claim.owner.into(),
            verifier: claim.verifier,
            principal: claim.principal,
            renewed_ms: AtomicU64::new(0),
            has_reclaimed: AtomicBool::new(false),
            creation: Mutex::new(Creation { sequence: 1, answer: None }),
            held: Mutex::default(),
        });
        client.renew(now);
        let lives = table.owners.entry(claim.owner.into()).or_default();
        let replaced = lives.unconfirmed.replace(client.id);
        table.clients.insert(client.id, Arc::clone(&client));
        if let Some(replaced) = replaced {
            table.clients.remove(&replaced);
        }
        client
    }

    /// The client that has this number.
    pub(crate) fn client(&self, id: u64) -> Result<Arc<Client>, Status> {
        lock(&self.table).clients.get(&id).cloned().ok_or(Status::StaleClientId)
    }

    /// CREATE_SESSION, after its sequence was looked at: confirms the client, and ends its life before.
    pub(crate) fn create_session(
        &self,
        client: &Arc<Client>,
        principal: u32,
        limits: Limits,
    ) -> Result<Arc<Session>, Status> {
        let mut table = lock(&self.table);
        if !table.clients.contains_key(&client.id) {
            return Err(Status::StaleClientId);
        }
        let lives = table.owners.get(&client.owner).ok_or(Status::StaleClientId)?;
        if lives.unconfirmed == Some(client.id) {
            if client.principal != principal {
                return Err(Status::ClidInUse);
            }
            let before = lives.confirmed.and_then(|id| table.clients.get(&id).cloned());
            if let Some(before) = before {
                self.end(&mut table, &before)?;
            }
            let lives = table.owners.entry(client.owner.clone()).or_default();
            lives.unconfirmed = None;
            lives.confirmed = Some(client.id);
        }
        let sessions = table.sessions.values().filter(|session| session.client.id == client.id).count();
        if sessions >= SESSIONS_PER_CLIENT_MAX {
            return Err(Status::NoSpc);
        }
        client.renew(self.clock.now());
        table.count = table.count.wrapping_add(1);
        let mut id = SessionId::default();
        id[..8].copy_from_slice(&client.id.to_be_bytes());
        id[8..12].copy_from_slice(&table.count.to_be_bytes());
        let slots = (0..limits.slots).map(|_| Mutex::default()).collect();
        let is_over = AtomicBool::new(false);
        let session = Arc::new(Session { id, client: Arc::clone(client), limits, slots, is_over });
        table.sessions.insert(id, Arc::clone(&session));
        Ok(session)
    }

    /// The session that has this name.
    pub(crate) fn session(&self, id: &SessionId) -> Result<Arc<Session>, Status> {
        lock(&self.table).sessions.get(id).cloned().ok_or(Status::BadSession)
    }

    /// A request of its came: the client is there.
    pub(crate) fn renew(&self, client: &Client) {
        client.renew(self.clock.now());
    }

    pub(crate) fn destroy_session(&self, id: &SessionId) -> Result<(), Status> {
        let session = lock(&self.table).sessions.remove(id).ok_or(Status::BadSession)?;
        session.is_over.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn destroy_client(&self, id: u64) -> Result<(), Status> {
        let mut table = lock(&self.table);
        let client = table.clients.get(&id).cloned().ok_or(Status::StaleClientId)?;
        let has_sessions = table.sessions.values().any(|session| session.client.id == id);
        if has_sessions || !lock(&client.held).is_empty() {
            return Err(Status::ClientIdBusy);
        }
        self.end(&mut table, &client)
    }

    /// RECLAIM_COMPLETE: from now on it is remembered through a restart.
    pub(crate) fn reclaim_complete(&self, client: &Client) -> Result<(), Status> {
        if client.has_reclaimed() {
            return Err(Status::CompleteAlready);
        }
        // Those that did not come in time are struck out under the same lock.
        let _table = lock(&self.table);
        self.records.add(&client.owner)?;
        self.grace.is_done(&client.owner);
        client.has_reclaimed.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends a client whose lease has run out, because somebody else wants what it holds. False if it has not.
    pub(crate) fn end_if_lost(&self, id: u64) -> Result<bool, Status> {
        let mut table = lock(&self.table);
        let Some(client) = table.clients.get(&id).cloned() else {
            // A request of its that was under way has locked something since.
            self.locks.release_all(id);
            return Ok(true);
        };
        if client.age(self.clock.now()) <= self.lease {
            return Ok(false);
        }
        self.end(&mut table, &client).map(|()| true)
    }

    /// What time brings: clients that were lost go, and the grace period ends.
    pub(crate) fn tick(&self) {
        let now = self.clock.now();
        let mut table = lock(&self.table);
        let lost: Vec<_> = table
            .clients
            .values()
            .filter(|client| {
                let lives = table.owners.get(&client.owner);
                let is_confirmed = lives.is_some_and(|lives| lives.confirmed == Some(client.id));
                let is_courteous = is_confirmed && !lock(&client.held).is_empty();
                client.age(now) > if is_courteous { COURTESY } else { self.lease }
            })
            .cloned()
            .collect();
        for client in lost {
            if let Err(status) = self.end(&mut table, &client) {
                tracing::warn!("a lost client cannot be struck out, and is tried again: {status:?}");
            }
        }
        for owner in self.grace.missing(now) {
            if let Err(error) = self.records.remove(&owner) {
                tracing::warn!("a client that did not come back cannot be struck out: {error}");
            }
        }
    }

    /// Nothing is left of a client: what it held is free, and it may not take it back.
    fn end(&self, table: &mut Table, client: &Client) -> Result<(), Status> {
        if client.has_reclaimed() {
            self.records.remove(&client.owner)?;
        }
        table.clients.remove(&client.id);
        table.sessions.retain(|_, session| {
            let stays = session.client.id != client.id;
            session.is_over.fetch_or(!stays, Ordering::AcqRel);
            stays
        });
        if let Some(lives) = table.owners.get_mut(&client.owner) {
            for life in [&mut lives.confirmed, &mut lives.unconfirmed] {
                life.take_if(|id| *id == client.id);
            }
            if lives.confirmed.is_none() && lives.unconfirmed.is_none() {
                table.owners.remove(&client.owner);
            }
        }
        let held = std::mem::take(&mut *lock(&client.held));
        self.locks.release_all(client.id);
        drop(held);
        Ok(())
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.table).clients.len()
    }
}
