//! Sends one request again and again, and tells how many were answered: `replay ADDRESS CONNECTIONS REQUESTS < REQUEST`.
//!
//! The request comes in whole, as bytes of HTTP/1.1, from standard input. Each connection sends it when the answer before is there; a
//! server that closes connections gets another one. All of it is one thread, so that little is taken from the server that is measured. Prints one line of JSON:
//! requests a second, the median and the 99th percentile of the time to the end of an answer, in milliseconds, and the length of the last answer's body.
//! An answer other than 200 ends it.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, Read as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Longer than any head that is expected.
const HEAD_MAX: usize = 64 * 1024;

struct Connection {
    address: String,
    stream: Option<TcpStream>,
    /// What has been read of an answer.
    buffer: Vec<u8>,
}

/// The end of an answer's head, and what it says of its body.
struct Head {
    end: usize,
    body: Option<usize>,
    closes: bool,
}

impl Connection {
    /// The length of the answer's body.
    async fn exchange(&mut self, request: &[u8]) -> Result<usize, Box<dyn Error>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read(&mut stream).await?;
            if let Some(head) = head(&self.buffer)? {
                break head;
            }
        };
        match head.body {
            Some(body) => {
                while self.buffer.len() < head.end + body {
                    self.read(&mut stream).await?;
                }
            }
            // It is as long as the connection.
            None => while stream.read_buf(&mut self.buffer).await? > 0 {},
        }
        if head.body.is_some() && !head.closes {
            self.stream = Some(stream);
        }
        Ok(self.buffer.len() - head.end)
    }

    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        match stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// None: it has not come to its end yet.
fn head(buffer: &[u8]) -> Result<Option<Head>, Box<dyn Error>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if buffer.len() < HEAD_MAX { Ok(None) } else { Err("a head without an end".into()) };
    };
    let text = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
    let (status, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
    if status.split(' ').nth(1) != Some("200") {
        return Err(String::from_utf8_lossy(buffer).into());
    }
    let field = |name: &str| {
        fields.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let body = field("content-length").map(str::parse).transpose()?;
    Ok(Some(Head { end: end + 4, body, closes: field("connection") == Some("close") }))
}

async fn client(
    address: String,
    request: Rc<[u8]>,
    left: Rc<Cell<usize>>,
) -> Result<(Vec<Duration>, usize), Box<dyn Error>> {
    let mut connection = Connection { address, stream: None, buffer: Vec::new() };
    let (mut times, mut body) = (Vec::new(), 0);
    while let Some(rest) = left.get().checked_sub(1) {
        left.set(rest);
        let started = Instant::now();
        body = connection.exchange(&request).await?;
        times.push(started.elapsed());
    }
    Ok((times, body))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, connections, requests] = arguments.as_slice() else {
        return Err("usage: replay ADDRESS CONNECTIONS REQUESTS < REQUEST".into());
    };
    let (connections, requests): (usize, usize) = (connections.parse()?, requests.parse()?);
    let mut request = Vec::new();
    io::stdin().read_to_end(&mut request)?;
    let request: Rc<[u8]> = request.into();
    let left = Rc::new(Cell::new(requests));
    let tasks = LocalSet::new();
    let started = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| tasks.spawn_local(client(address.clone(), Rc::clone(&request), Rc::clone(&left))))
        .collect();
    let (mut times, mut body) = (Vec::new(), 0);
    tasks
        .run_until(async {
            for client in clients {
                let (of_one, length) = client.await??;
                times.extend(of_one);
                body = body.max(length);
            }
            Ok::<_, Box<dyn Error>>(())
        })
        .await?;
    let took = started.elapsed();
    times.sort();
    let at = |percent: usize| {
        times.get(times.len().saturating_sub(1) * percent / 100).map_or(0.0, Duration::as_secs_f64) * 1e3
    };
    let answer = serde_json::json!({
        "rps": f64::from(u32::try_from(times.len())?) / took.as_secs_f64(),
        "median_ms": at(50),
        "p99_ms": at(99),
        "body_bytes": body,
    });
    println!("{answer}");
    Ok(())
}
