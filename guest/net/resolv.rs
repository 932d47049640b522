//! `/etc/resolv.conf`, and asking the name servers in it (RFC 1035): the static C library cannot.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::dhcp::message::Lease;

/// The C library heeds no more.
const SERVERS_MAX: usize = 3;
const ANSWER_WAIT: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;

/// The file for these leases, the preferred first.
pub fn format<'a>(leases: impl Iterator<Item = &'a Lease>) -> String {
    let (mut domains, mut servers): (Vec<&str>, Vec<Ipv4Addr>) = (Vec::new(), Vec::new());
    for lease in leases {
        domains.extend(lease.domain.as_deref().filter(|domain| !domains.contains(domain)));
        for &server in &lease.dns {
            if !servers.contains(&server) && servers.len() < SERVERS_MAX {
                servers.push(server);
            }
        }
    }
    let mut text = String::new();
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    text
}

/// Replaces the file in one step, so that no reader sees half of it.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("conf.new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

/// The IPv4 address of a name: itself, from `/etc/hosts`, or from a name server.
pub fn look_up(name: &str) -> Result<Ipv4Addr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if let Some(address) = in_hosts(&hosts, name) {
        return Ok(address);
    }
    let servers = servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    if servers.is_empty() {
        bail!("cannot look up {name}: /etc/resolv.conf names no server");
    }
    let mut last = None;
    for _ in 0..TRIES {
        for &server in &servers {
            match ask(name, SocketAddr::from((server, 53))) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => bail!("{server} says that {name} has no IPv4 address"),
                Err(error) => last = Some(error.context(format!("ask {server} for {name}"))),
            }
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("cannot look up {name}")))
}

fn in_hosts(text: &str, name: &str) -> Option<Ipv4Addr> {
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    })
}

fn servers(text: &str) -> Vec<Ipv4Addr> {
    text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

fn ask(name: &str, server: SocketAddr) -> Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_WAIT))?;
    // The port is random, and an answer from elsewhere is not received.
    let id = socket.local_addr()?.port();
    socket.send(&question(id, name)?)?;
    let mut buffer = [0; 1500];
    loop {
        let length = socket.recv(&mut buffer).context("no answer")?;
        if buffer[..length].starts_with(&id.to_be_bytes()) {
            return Ok(answer(&buffer[..length]));
        }
    }
}

/// ```text
/// 0 id  2 flags (0x0100: recursion desired)  4 questions  6 answers  8 authorities  10 additional  12 …
/// question: labels, each with its length, then 0; type 1 (A); class 1 (IN)
/// ```
fn question(id: u16, name: &str) -> Result<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|&length| (1..64).contains(&length));
        message.push(length.with_context(|| format!("{name} is not a host name"))?);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}

/// The first A record among the answers, whatever aliases lead to it: the server has followed them.
fn answer(message: &[u8]) -> Option<Ipv4Addr> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let mut at = 12;
    for _ in 0..u16_at(4)? {
        at = after_name(message, at)? + 4;
    }
    for _ in 0..u16_at(6)? {
        at = after_name(message, at)?;
        let (kind, class, length) = (u16_at(at)?, u16_at(at + 2)?, usize::from(u16_at(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, 1, &[a, b, c, d]) = (kind, class, data) {
            return Some(Ipv4Addr::new(a, b, c, d));
        }
        at += 10 + length;
    }
    None
}

/// Where a name ends: at a zero label, or after a pointer to the rest of it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_is_answered_by_a_server() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let asked = std::thread::spawn(move || ask("fs-1.efs.test", address));
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[12..length], b"\x04fs-1\x03efs\x04test\0\0\x01\0\x01");
        let mut reply = buffer[..length].to_vec();
        (reply[2], reply[3], reply[7]) = (0x81, 0x80, 2);
        // An alias, then the address, with names that point to the question's.
        reply.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x0c");
        reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x09");
        server.send_to(&reply, from).unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), Some(Ipv4Addr::new(10, 0, 0, 9)));
    }

    #[test]
    fn hosts_and_servers_are_read() {
        let hosts = "127.0.0.1 localhost\n10.0.0.3 web web.test # here\n";
        assert_eq!(in_hosts(hosts, "WEB.test"), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(in_hosts(hosts, "here"), None);
        assert_eq!(servers("search a\nnameserver 10.0.0.2\nnameserver ::1\n"), [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(message in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = answer(&message);
        }
    }
}
