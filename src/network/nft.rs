//! Running `nft` in a namespace. A list of commands takes effect as a whole or not at all.

mod generation;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::error::Error;
use crate::namespace::Namespace;
pub(crate) use generation::generation;

/// Carries out `commands`, which are about `table`, in one transaction.
pub(crate) fn apply(namespace: &Namespace, table: &str, commands: &[Value]) -> Result<(), Error> {
    let input = json!({ "nftables": commands }).to_string();
    let output = namespace.run(|| nft(&["-j", "-f", "-"], input.as_bytes()))?;
    let output = output.map_err(not_run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(table, &output))
}

/// Carries out `text`, which is in nft's own language and about `table`, in one transaction.
pub(crate) fn load(namespace: &Namespace, table: &str, text: &str) -> Result<(), Error> {
    let output = namespace.run(|| nft(&["-f", "-"], text.as_bytes()))?.map_err(not_run)?;
    if output.status.success() { Ok(()) } else { Err(refused(table, &output)) }
}

/// All that is in the namespace, table by table, each object under its kind's name.
pub(crate) fn ruleset(namespace: &Namespace) -> Result<Vec<Value>, Error> {
    list(namespace, "ruleset")
}

fn list(namespace: &Namespace, what: &str) -> Result<Vec<Value>, Error> {
    let output = namespace.run(|| nft(&["-j", "list", what], &[]))?;
    let output = output.map_err(not_run)?;
    if !output.status.success() {
        return Err(refused("*", &output));
    }
    let mut listing: Value = serde_json::from_slice(&output.stdout).map_err(Error::NftOutput)?;
    match listing["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// How many packets each named counter has counted; those of one name in several tables together.
pub(crate) fn counters(namespace: &Namespace) -> Result<BTreeMap<String, u64>, Error> {
    let mut found = BTreeMap::new();
    for object in list(namespace, "counters")? {
        let counter = &object["counter"];
        if let (Some(name), Some(packets)) = (counter["name"].as_str(), counter["packets"].as_u64()) {
            *found.entry(name.to_owned()).or_default() += packets;
        }
    }
    Ok(found)
}

/// A table of IPv4, in nft's own language; none, if there is none.
pub(crate) fn table(namespace: &Namespace, table: &str) -> Result<Option<String>, Error> {
    let output =
        namespace.run(|| nft(&["--stateless", "list", "table", "ip", table], &[]))?.map_err(not_run)?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    match refused(table, &output) {
        Error::NftRefused { reason, .. } if reason.contains("No such file or directory") => Ok(None),
        error => Err(error),
    }
}

fn nft(arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    // A user's PATH often lacks the folders of system commands.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/local/sbin:/usr/sbin:/sbin"));
    let mut child = Command::new("nft")
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It ended early, and says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

fn not_run(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NftMissing,
        _ => Error::io("run nft", error),
    }
}

fn refused(table: &str, output: &Output) -> Error {
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if reason.contains("Operation not permitted") {
        return Error::NotPermitted { operation: format!("change table {table} of nftables") };
    }
    Error::NftRefused { table: table.to_owned(), reason }
}
