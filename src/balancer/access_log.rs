//! Who asked what, and what he was answered: a line for each request, in AWS's format
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-access-logs.html#access-log-entry-format>), up to `conn_trace_id`.
//!
//! Workers gather lines and hand them over many at a time; one thread writes them, so that no request waits for a disk. What that thread cannot keep up with is lost, and
//! counted. A file that was moved away is made again when the configuration is read again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crate::http1::{Flaw, Severity};

/// Batches that wait for the disk.
const WAITING_MAX: usize = 256;

/// What one line tells.
#[derive(Debug)]
pub(crate) struct Line {
    /// `http`, `https`, `h2`, `grpcs`, `ws` or `wss`.
    pub(crate) kind: &'static str,
    pub(crate) created: SystemTime,
    pub(crate) client: SocketAddr,
    pub(crate) target: Option<SocketAddr>,
    /// How long the target took; none if it did not answer, or was not asked.
    pub(crate) target_time: Option<Duration>,
    /// None: the client was told nothing.
    pub(crate) status: Option<u16>,
    pub(crate) target_status: Option<u16>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Method, URL and version.
    pub(crate) request: Vec<u8>,
    pub(crate) agent: Vec<u8>,
    /// Cipher suite and version.
    pub(crate) tls: Option<(&'static str, &'static str)>,
    pub(crate) group: Option<String>,
    pub(crate) trace: String,
    /// That the client asked for in its handshake.
    pub(crate) domain: Option<String>,
    /// 0 for the default action; none if no rule was looked for.
    pub(crate) priority: Option<u32>,
    pub(crate) action: Option<&'static str>,
    pub(crate) redirect: Option<String>,
    pub(crate) flaw: Option<Flaw>,
    /// Of the connection.
    pub(crate) connection: u128,
}

impl Line {
    /// Writes it with its end, for a load balancer of this name.
    pub(crate) fn write(&self, name: &str, now: SystemTime, out: &mut Vec<u8>) {
        let times = match self.target_time {
            Some(time) => format!("0.000 {:.3} 0.000", time.as_secs_f64()),
            // The target was asked and did not answer, or nobody was asked.
            None => "-1 -1 -1".to_owned(),
        };
        let number = |number: Option<u16>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let target = self.target.map_or_else(|| "-".to_owned(), |target| target.to_string());
        let (status, target_status) = (number(self.status), number(self.target_status));
        // To write into memory cannot fail.
        let _ = write!(
            out,
            "{} {} {name} {} {target} {times} {status} {target_status} {} {} \"",
            self.kind,
            stamp(now),
            self.client,
            self.received,
            self.sent,
        );
        escape(&self.request, out);
        out.extend_from_slice(b"\" \"");
        escape(if self.agent.is_empty() { b"-" } else { &self.agent }, out);
        let (cipher, version) = self.tls.unwrap_or(("-", "-"));
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let priority = self.priority.map_or(-1, i64::from);
        let (class, reason) =
            self.flaw.map_or(("-", "-".to_owned()), |flaw| (class(flaw), format!("{flaw:?}")));
        let _ = writeln!(
            out,
            "\" {cipher} {version} {} \"{}\" \"{}\" \"-\" {priority} {} \"{}\" \"{}\" \"-\" \"{target}\" \"{target_status}\" \"{class}\" \
             \"{reason}\" TID_{:032x}",
            or_none(&self.group),
            self.trace,
            or_none(&self.domain),
            stamp(self.created),
            self.action.unwrap_or("-"),
            or_none(&self.redirect),
            self.connection,
        );
    }
}

fn class(flaw: Flaw) -> &'static str {
    match flaw.severity() {
        Severity::Acceptable => "Acceptable",
        Severity::Ambiguous => "Ambiguous",
        Severity::Severe => "Severe",
    }
}

/// ISO 8601 with microseconds.
fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "-".to_owned(), |time| format!("{time:.6}"))
}

/// What a client sent cannot end its place in a line, or the line.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

/// What the writer is handed.
enum Batch {
    Lines(Vec<u8>),
    /// Go on in the file that has the path now, or in another one.
    Open(PathBuf, File),
}

/// Where lines go. All that was handed over is written when the last of these is dropped.
#[derive(Clone)]
pub(crate) struct Log(Arc<Writer>);

struct Writer {
    batches: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic was printed.
            let _ = thread.join();
        }
    }
}

impl Log {
    /// Writes to a file, behind what is in it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let (batches, inbox) = sync_channel(WAITING_MAX);
        let path = path.to_owned();
        let work = move || write(path, file, &inbox);
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(work)?;
        Ok(Self(Arc::new(Writer { batches: Some(batches), thread: Some(thread) })))
    }

    /// Goes on in the file that has this path now.
    ///
    /// # Errors
    /// When it cannot be opened; then all is as it was.
    pub(crate) fn reopen(&self, path: &Path) -> io::Result<()> {
        let file = append(path)?;
        if let Some(batches) = &self.0.batches {
            // The writer ends with the last of these only.
            let _ = batches.send(Batch::Open(path.to_owned(), file));
        }
        Ok(())
    }

    /// Hands lines over; says whether there was room for them.
    pub(crate) fn hand_over(&self, lines: Vec<u8>) -> bool {
        self.0.batches.as_ref().is_some_and(|batches| batches.try_send(Batch::Lines(lines)).is_ok())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write(mut path: PathBuf, mut file: File, inbox: &Receiver<Batch>) {
    let mut has_failed = false;
    for batch in inbox {
        match batch {
            Batch::Open(next, opened) => (path, file, has_failed) = (next, opened, false),
            Batch::Lines(lines) => match file.write_all(&lines) {
                Ok(()) => has_failed = false,
                // Told once, and not for every batch.
                Err(error) if !std::mem::replace(&mut has_failed, true) => {
                    eprintln!("nimbo: the access log {} cannot be written: {error}", path.display());
                }
                Err(_) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_published_fields() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let mut line = Line {
            kind: "h2",
            created: at(1_530_570_180_186),
            client: "10.0.1.252:48160".parse().unwrap(),
            target: Some("10.0.0.66:9000".parse().unwrap()),
            target_time: Some(Duration::from_millis(2)),
            status: Some(200),
            target_status: Some(200),
            received: 5,
            sent: 257,
            request: b"GET https://10.0.2.105:773/ HTTP/2.0".to_vec(),
            agent: b"curl \"7\"\n".to_vec(),
            tls: Some(("ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2")),
            group: Some("web".to_owned()),
            trace: "Root=1-58337327-72bd00b0343d75b906739c42".to_owned(),
            domain: None,
            priority: Some(1),
            action: Some("redirect"),
            redirect: Some("https://example.com:80/".to_owned()),
            flaw: None,
            connection: 0xabc,
        };
        let written = |line: &Line| {
            let mut out = Vec::new();
            line.write("app/web/1", at(1_530_570_180_286), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(&line),
            "h2 2018-07-02T22:23:00.286000Z app/web/1 10.0.1.252:48160 10.0.0.66:9000 0.000 0.002 0.000 200 200 5 257 \
             \"GET https://10.0.2.105:773/ HTTP/2.0\" \"curl \\\"7\\\"\\x0a\" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 web \
             \"Root=1-58337327-72bd00b0343d75b906739c42\" \"-\" \"-\" 1 2018-07-02T22:23:00.186000Z \"redirect\" \
             \"https://example.com:80/\" \"-\" \"10.0.0.66:9000\" \"200\" \"-\" \"-\" TID_00000000000000000000000000000abc\n"
        );
        (line.target, line.target_time, line.target_status, line.priority) = (None, None, None, None);
        line.flaw = Some(Flaw::BadHeader);
        let refused = written(&line);
        assert!(refused.contains(" - -1 -1 -1 200 - 5 "), "{refused}");
        assert!(
            refused.contains("\"-\" -1 2018") && refused.contains("\"-\" \"-\" \"Severe\" \"BadHeader\" "),
            "{refused}"
        );
    }
}
