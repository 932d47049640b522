//! Kernel settings of the calling thread's network namespace, under `/proc/sys/net`.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::Error;

fn path(name: &str) -> PathBuf {
    // Slashes and not dots, since an interface's name may contain a dot.
    PathBuf::from("/proc/sys/net").join(name)
}

/// Writes one setting, `name` being its path below `/proc/sys/net`.
pub(crate) fn set(name: &str, value: &str) -> Result<(), Error> {
    fs::write(path(name), value).map_err(Error::while_doing(format_args!("set net/{name} to {value}")))
}

/// As [`set`], for a setting that a kernel may be built without.
pub(crate) fn set_if_present(name: &str, value: &str) -> Result<(), Error> {
    match fs::write(path(name), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(Error::while_doing(format_args!("set net/{name} to {value}"))),
    }
}

/// What a setting is. One of an interface that is gone is none.
pub(crate) fn get(name: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format_args!("read net/{name}"), error)),
    }
}

/// Whether a setting is on. One of an interface that is gone is not.
pub(crate) fn is_on(name: &str) -> Result<bool, Error> {
    Ok(get(name)?.is_some_and(|value| value != "0"))
}

/// Has the namespace of the calling thread send on what it gets. Who may send as whom is its rules' to say, which know more than
/// routes do. Devices that come later begin so too.
pub(crate) fn forward_by_rules() -> Result<(), Error> {
    for (name, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv4/ip_forward", "1"),
    ] {
        set(name, value)?;
    }
    set_if_present("ipv6/conf/default/disable_ipv6", "1")?;
    set_if_present("ipv6/conf/all/disable_ipv6", "1")
}
