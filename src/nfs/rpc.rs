//! ONC RPC, version 2 (RFC 5531): what a call asks for and from whom it is, and how an answer begins.

use crate::fs::Identity;
use crate::xdr::{Malformed, Reader, Writer};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const PROGRAM: u32 = 100_003;
const VERSION: u32 = 4;
/// The longest body of a credential (RFC 5531, section 8.2).
const AUTH_BYTES_MAX: usize = 400;
const MACHINE_NAME_BYTES_MAX: usize = 255;
const GROUPS_MAX: usize = 16;

pub(crate) const AUTH_NONE: u32 = 0;
pub(crate) const AUTH_SYS: u32 = 1;

/// The procedures of NFS version 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Procedure {
    Null,
    Compound,
}

/// A call that is to be answered by who serves NFS.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) xid: u32,
    pub(crate) procedure: Procedure,
    pub(crate) identity: Identity,
    pub(crate) arguments: Reader<'a>,
}

/// Why a call is refused before anybody looks at what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    RpcVersion,
    Program,
    Version,
    Procedure,
    BadCredential,
    TooWeak,
}

/// A call, or how it is to be refused.
///
/// # Errors
/// [`Malformed`] if it is no call, and nobody can be told so.
pub(crate) fn parse(record: &[u8]) -> Result<Result<Call<'_>, (u32, Refusal)>, Malformed> {
    let mut reader = Reader::new(record);
    let xid = reader.u32()?;
    if reader.u32()? != CALL {
        return Err(Malformed);
    }
    if reader.u32()? != RPC_VERSION {
        return Ok(Err((xid, Refusal::RpcVersion)));
    }
    let (program, version, procedure) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let flavor = reader.u32()?;
    let credential = reader.opaque(AUTH_BYTES_MAX)?;
    reader.u32()?;
    reader.opaque(AUTH_BYTES_MAX)?;
    let refused = |refusal| Ok(Err((xid, refusal)));
    if program != PROGRAM {
        return refused(Refusal::Program);
    }
    if version != VERSION {
        return refused(Refusal::Version);
    }
    let procedure = match procedure {
        0 => Procedure::Null,
        1 => Procedure::Compound,
        _ => return refused(Refusal::Procedure),
    };
    let identity = match flavor {
        AUTH_NONE => Identity::nobody(),
        AUTH_SYS => match unix_identity(Reader::new(credential)) {
            Ok(identity) => identity,
            Err(Malformed) => return refused(Refusal::BadCredential),
        },
        _ => return refused(Refusal::TooWeak),
    };
    Ok(Ok(Call { xid, procedure, identity, arguments: reader }))
}

/// The body of AUTH_SYS (RFC 5531, appendix A).
fn unix_identity(mut body: Reader<'_>) -> Result<Identity, Malformed> {
    let _stamp = body.u32()?;
    body.opaque(MACHINE_NAME_BYTES_MAX)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let groups = body.list(GROUPS_MAX, Reader::u32)?;
    // The kernel takes -1 for "leave it as it is": the caller would become who was served before.
    if [uid, gid].iter().chain(&groups).any(|id| *id == u32::MAX) || body.remaining() > 0 {
        return Err(Malformed);
    }
    Ok(Identity::new(uid, gid, &groups))
}

/// Writes what comes before the results of a call that was accepted.
pub(crate) fn accept(out: &mut Writer, xid: u32) {
    begin(out, xid);
    out.u32(0);
}

/// Writes the whole answer to a call whose arguments are not what XDR says.
pub(crate) fn garbage(out: &mut Writer, xid: u32) {
    begin(out, xid);
    out.u32(4);
}

/// Writes the whole answer to a call that is refused.
pub(crate) fn refuse(out: &mut Writer, xid: u32, refusal: Refusal) {
    let deny = |out: &mut Writer, words: &[u32]| {
        [xid, REPLY, 1].iter().chain(words).for_each(|word| out.u32(*word));
    };
    match refusal {
        Refusal::RpcVersion => deny(out, &[0, RPC_VERSION, RPC_VERSION]),
        Refusal::BadCredential => deny(out, &[1, 1]),
        Refusal::TooWeak => deny(out, &[1, 5]),
        Refusal::Program => {
            begin(out, xid);
            out.u32(1);
        }
        Refusal::Version => {
            begin(out, xid);
            [2, VERSION, VERSION].into_iter().for_each(|word| out.u32(word));
        }
        Refusal::Procedure => {
            begin(out, xid);
            out.u32(3);
        }
    }
}

/// An accepted answer with no verifier, up to what became of it.
fn begin(out: &mut Writer, xid: u32) {
    [xid, REPLY, 0, AUTH_NONE, 0].into_iter().for_each(|word| out.u32(word));
}

/// Writes the head of a call of NFS, as a client makes it.
pub(crate) fn call(out: &mut Writer, xid: u32, is_compound: bool, identity: Option<&Identity>) {
    [xid, CALL, RPC_VERSION, PROGRAM, VERSION, u32::from(is_compound)]
        .into_iter()
        .for_each(|word| out.u32(word));
    match identity {
        None => [AUTH_NONE, 0].into_iter().for_each(|word| out.u32(word)),
        Some(identity) => {
            let mut body = Writer::new();
            body.u32(0);
            body.opaque(b"");
            body.u32(identity.uid());
            body.u32(identity.gid());
            body.length(identity.groups().len());
            identity.groups().iter().for_each(|gid| body.u32(*gid));
            out.u32(AUTH_SYS);
            out.opaque(body.as_bytes());
        }
    }
    [AUTH_NONE, 0].into_iter().for_each(|word| out.u32(word));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn refusal_of(call: &[u32]) -> Refusal {
        match parse(&words(call)) {
            Ok(Err((7, refusal))) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_call_of_ours_is_refused_as_such() {
        assert_eq!(refusal_of(&[7, 0, 3, 0, 0, 0, 0, 0, 0, 0]), Refusal::RpcVersion);
        assert_eq!(refusal_of(&[7, 0, 2, 100_005, 3, 0, 0, 0, 0, 0]), Refusal::Program);
        assert_eq!(refusal_of(&[7, 0, 2, PROGRAM, 3, 0, 0, 0, 0, 0]), Refusal::Version);
        assert_eq!(refusal_of(&[7, 0, 2, PROGRAM, 4, 2, 0, 0, 0, 0]), Refusal::Procedure);
        assert_eq!(refusal_of(&[7, 0, 2, PROGRAM, 4, 1, 6, 0, 0, 0]), Refusal::TooWeak);
        assert!(parse(&words(&[7, 1, 2, PROGRAM, 4, 1, 0, 0, 0, 0])).is_err(), "a reply");
        assert!(parse(&words(&[7, 0, 2, PROGRAM, 4, 1, 0, 0, 0])).is_err(), "it ends early");
    }

    #[test]
    fn nobody_is_who_was_served_before() {
        for (uid, gid, group) in [(u32::MAX, 0, 0), (0, u32::MAX, 0), (0, 0, u32::MAX)] {
            let call = [7, 0, 2, PROGRAM, 4, 1, AUTH_SYS, 24, 0, 0, uid, gid, 1, group, 0, 0];
            assert_eq!(refusal_of(&call), Refusal::BadCredential);
        }
        let call = [7, 0, 2, PROGRAM, 4, 1, AUTH_SYS, 20, 0, 0, 1, 2, 17, 0, 0];
        assert_eq!(refusal_of(&call), Refusal::BadCredential, "more groups than there may be");
    }

    #[test]
    fn what_a_client_says_of_itself_is_understood() {
        let mut out = Writer::new();
        call(&mut out, 9, true, Some(&Identity::new(1000, 100, &[4, 5])));
        out.u32(42);
        let mut call = parse(out.as_bytes()).unwrap().unwrap();
        assert_eq!((call.xid, call.procedure), (9, Procedure::Compound));
        assert_eq!(
            (call.identity.uid(), call.identity.gid(), call.identity.groups()),
            (1000, 100, [4, 5].as_slice())
        );
        assert_eq!(call.arguments.u32(), Ok(42));
    }
}
