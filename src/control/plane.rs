//! The control plane as operations see it: who calls, and what of the ledger they get.

use std::sync::Arc;

use aws::service::Operation;
use aws::sigv4::Caller;
use aws::{Call, Error, Table};
use types::Region;

use crate::capacity::Overcommit;
use crate::ledger::{Ledger, Stopped, WriteError};
use crate::ports::{BoxFuture, Machines};
use crate::state::{Space, Transaction, View};

/// What all operations share.
pub struct Plane {
    pub ledger: Ledger,
    /// For operations that tell what only the host knows.
    machines: Arc<dyn Machines>,
}

impl Plane {
    pub fn new(ledger: Ledger, machines: Arc<dyn Machines>, overcommit: Overcommit) -> Arc<Self> {
        ledger.set_capacity(machines.capacity().overcommitted(overcommit));
        Arc::new(Self { ledger, machines })
    }

    /// What is seen by `operation`, when it is durable.
    async fn look<O: Operation, T>(
        &self,
        operation: fn(View<'_>, &Call<O::Input>) -> Result<T, Error>,
        call: Call<O::Input>,
    ) -> Result<T, Error> {
        let space = self.space(&call.caller).await?;
        let now = self.ledger.now();
        let (answer, as_of) = self.ledger.read(|state| operation(View::new(state, space, now), &call));
        self.ledger.settled(as_of).await.map_err(|stopped| unavailable(&stopped))?;
        answer
    }

    async fn ask<O: Operation, Q>(
        &self,
        question: Question<O, Q>,
        ask: Ask<O, Q>,
        call: Call<O::Input>,
    ) -> Result<O::Output, Error> {
        let question = self.look::<O, Q>(question, call).await?;
        ask(self.machines.as_ref(), question).await
    }

    async fn change<O: Operation>(
        &self,
        operation: Change<O>,
        call: Call<O::Input>,
    ) -> Result<O::Output, Error> {
        let space = self.space(&call.caller).await?;
        self.write(space, |tx| operation(tx, call.input)).await
    }

    /// Nobody waits for the preparation but who asked for it.
    async fn prepare<O: Operation<Input: 'static>, P: Send + 'static>(
        &self,
        prepare: Prepare<O, P>,
        operation: PreparedChange<O, P>,
        call: Call<O::Input>,
    ) -> Result<O::Output, Error> {
        let space = self.space(&call.caller).await?;
        let input = call.input;
        let prepared = tokio::task::spawn_blocking(move || prepare(&input).map(|prepared| (input, prepared)));
        let (input, prepared) = prepared.await.map_err(|_| Error::internal())??;
        self.write(space, |tx| operation(tx, input, prepared)).await
    }

    /// Changes the space by an operation, all of it or nothing.
    ///
    /// # Errors
    /// The operation's, and when nothing can be written.
    pub(crate) async fn write<T>(
        &self,
        space: Space,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.ledger.write(space, operation).await.map_err(|error| match error {
            WriteError::Refused(error) => error,
            WriteError::TooLarge { .. } => Error::new("ResourceCountExceeded", format!("{error}.")),
            WriteError::Stopped(stopped) => unavailable(&stopped),
        })
    }

    /// The caller's space, with what every account has from its beginning.
    async fn space(&self, caller: &Caller) -> Result<Space, Error> {
        let region: Region = caller.region.parse().map_err(|_| {
            Error::new(
                "AuthFailure",
                format!("There is no region {:?}, which the request is signed for.", caller.region),
            )
        })?;
        let account = caller.account.parse().map_err(|_| Error::internal())?;
        let space = Space { account, region };
        self.begin(space).await?;
        Ok(space)
    }

    /// Has all accounts in all regions be as they were before the first request, when it returns.
    ///
    /// # Errors
    /// When nothing can be written.
    pub async fn reset(&self) -> Result<(), Error> {
        self.ledger.erase().await.map_err(|stopped| unavailable(&stopped))
    }

    /// Sees to it that the space has what every account has from its beginning.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(crate) async fn begin(&self, space: Space) -> Result<(), Error> {
        let (is_known, _) = self.ledger.read(|state| state.space(space).is_some());
        if is_known {
            return Ok(());
        }
        self.write(space, |tx| {
            // Another request may have been faster.
            if tx.is_first() {
                crate::ec2::begin(tx);
            }
            Ok(())
        })
        .await
    }
}

/// An operation that only looks.
pub(crate) type Look<O> =
    fn(View<'_>, &Call<<O as Operation>::Input>) -> Result<<O as Operation>::Output, Error>;

/// What an operation has to ask the host, as the state says.
pub(crate) type Question<O, Q> = fn(View<'_>, &Call<<O as Operation>::Input>) -> Result<Q, Error>;

/// An operation that tells what the host answers. It changes nothing.
pub(crate) type Ask<O, Q> = fn(&dyn Machines, Q) -> BoxFuture<'_, Result<<O as Operation>::Output, Error>>;

/// An operation that changes something.
pub(crate) type Change<O> =
    fn(&mut Transaction<'_>, <O as Operation>::Input) -> Result<<O as Operation>::Output, Error>;

/// What takes an operation long, and needs nothing of the state: it is done before, and holds nobody up.
pub(crate) type Prepare<O, P> = fn(&<O as Operation>::Input) -> Result<P, Error>;

/// An operation that changes something with what was prepared for it.
pub(crate) type PreparedChange<O, P> =
    fn(&mut Transaction<'_>, <O as Operation>::Input, P) -> Result<<O as Operation>::Output, Error>;

/// Operations of the control plane in a table.
pub(crate) trait Serve {
    fn looks<O: Operation>(self, operation: Look<O>) -> Self;

    fn asks<O: Operation, Q: Send + 'static>(self, question: Question<O, Q>, ask: Ask<O, Q>) -> Self;

    fn changes<O: Operation>(self, operation: Change<O>) -> Self;

    fn prepares<O: Operation<Input: 'static>, P: Send + 'static>(
        self,
        prepare: Prepare<O, P>,
        operation: PreparedChange<O, P>,
    ) -> Self;
}

impl Serve for Table<Arc<Plane>> {
    fn looks<O: Operation>(self, operation: Look<O>) -> Self {
        self.serve::<O>(move |plane: Arc<Plane>, call: Call<O::Input>| async move {
            plane.look::<O, _>(operation, call).await
        })
    }

    fn asks<O: Operation, Q: Send + 'static>(self, question: Question<O, Q>, ask: Ask<O, Q>) -> Self {
        self.serve::<O>(move |plane: Arc<Plane>, call: Call<O::Input>| async move {
            plane.ask::<O, Q>(question, ask, call).await
        })
    }

    fn changes<O: Operation>(self, operation: Change<O>) -> Self {
        self.serve::<O>(move |plane: Arc<Plane>, call: Call<O::Input>| async move {
            plane.change::<O>(operation, call).await
        })
    }

    fn prepares<O: Operation<Input: 'static>, P: Send + 'static>(
        self,
        prepare: Prepare<O, P>,
        operation: PreparedChange<O, P>,
    ) -> Self {
        self.serve::<O>(move |plane: Arc<Plane>, call: Call<O::Input>| async move {
            plane.prepare::<O, P>(prepare, operation, call).await
        })
    }
}

fn unavailable(stopped: &Stopped) -> Error {
    tracing::error!("{stopped}");
    Error::new("Unavailable", format!("{stopped}."))
}
