//! An authority of the server's own, which clients are told to trust, and the certificates that it signs.
//!
//! ```text
//! tls/ca.pem       what clients need
//! tls/ca-key.pem   what signs
//! ```
//!
//! The authority is made once and kept. The server's certificate is made at each start, for the addresses that the machine has then, and lies in memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::ifaddrs::getifaddrs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::serve::state_folder::{make_folder, write_file};

/// Clients refuse certificates of more than 825 days.
const DAYS: i64 = 800;
const AUTHORITY_DAYS: i64 = 3650;

/// A certificate and its key.
pub(super) struct Made {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The file of who signed it.
    pub(super) authority: PathBuf,
}

/// Makes a certificate for this machine, and for `names`.
pub(super) fn certificate(folder: &Path, listen: SocketAddr, names: &[String]) -> anyhow::Result<Made> {
    make_folder(folder)?;
    let (issuer, authority) = authority(folder)?;
    let all = own_names(listen).into_iter().chain(names.iter().cloned()).collect::<BTreeSet<_>>();
    let mut params = params(all.into_iter().collect(), "nimbo", DAYS)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    Ok(Made { certificate, key, authority })
}

/// The authority, which is made if there is none.
fn authority(folder: &Path) -> anyhow::Result<(Issuer<'static, KeyPair>, PathBuf)> {
    let (path, key_path) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
    let key = match fs::read_to_string(&key_path) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| format!("{} is no key", key_path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            write_file(&key_path, key.serialize_pem().as_bytes())?;
            key
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", key_path.display())),
    };
    // So that two servers' authorities are not taken for each other.
    let hash = blake3::hash(key.public_key_pem().as_bytes()).to_hex();
    let mut params = params(Vec::new(), &format!("nimbo's authority {}", &hash[..8]), AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if !path.exists() {
        write_file(&path, params.self_signed(&key)?.pem().as_bytes())?;
    }
    Ok((Issuer::new(params, key), path))
}

fn params(names: Vec<String>, common_name: &str, days: i64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("one of the names cannot be in a certificate")?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Timestamp::now();
    let date = |days: i64| -> anyhow::Result<_> {
        let date = TimeZone::UTC.to_datetime(now).checked_add(jiff::Span::new().days(days))?;
        Ok(date_time_ymd(date.year().into(), u8::try_from(date.month())?, u8::try_from(date.day())?))
    };
    // Clocks differ.
    params.not_before = date(-1)?;
    params.not_after = date(days)?;
    Ok(params)
}

/// By which clients may reach who listens there.
fn own_names(listen: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Ok(name) = fs::read_to_string("/proc/sys/kernel/hostname") {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        names.extend(
            Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name.bytes().all(is_name)),
        );
    }
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
        return names;
    }
    let addresses = getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    names.extend(addresses.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        v4.or(v6).map(|address| address.to_string())
    }));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let make = || certificate(&folder, "0.0.0.0:0".parse().unwrap(), &["lab.example".to_owned()]);
        let first = make().unwrap();
        let ca = fs::read(&first.authority).unwrap();
        let second = make().unwrap();
        assert_eq!(fs::read(&second.authority).unwrap(), ca);
        assert_ne!(first.certificate, second.certificate);
        // As after a crash between the two files.
        fs::remove_file(&second.authority).unwrap();
        assert!(make().unwrap().authority.exists());
        assert!(certificate(&folder, "127.0.0.1:0".parse().unwrap(), &["ä".to_owned()]).is_err());
    }
}
