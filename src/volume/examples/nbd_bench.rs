//! Measures what an NBD server does: `nbd_bench SOCKET EXPORT WORK COUNT [SEED]`, with the work `read`, `write` or `flush`. The
//! blocks are 4 KiB, each in random order once before one comes again. Prints seconds: for `flush`, the median of one after the write of a
//! block. `nbd_bench seal FOLDER` seals the top layer of a volume, so that the next writes are the first of their blocks.
//!
//! It sends as many requests in one call as have become possible, and reads as many replies, so that the server is what is measured.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use volume::Volume;
use volume::nbd::client::{Client, command};

const BLOCK: u32 = 4096;
const DEPTH: usize = 32;
/// A buffer that holds what `DEPTH` reads bring.
const BUFFER_BYTES: usize = 256 << 10;

/// A permutation of the blocks: index times an odd number, modulo a power of two that is not smaller, without what is outside.
struct Blocks {
    next: u64,
    step: u64,
    mask: u64,
    count: u64,
}

impl Blocks {
    fn new(count: u64, seed: u64) -> Self {
        let step = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 | 1;
        Self { next: seed, step, mask: count.next_power_of_two() - 1, count }
    }

    fn next(&mut self) -> u64 {
        loop {
            self.next = self.next.wrapping_add(self.step);
            // The low bits of a sum of odd numbers are too regular for a disk.
            let block = (self.next & self.mask).reverse_bits() >> self.mask.leading_zeros();
            if block < self.count {
                return block;
            }
        }
    }
}

/// Keeps [`DEPTH`] requests in flight until there were `count`.
fn transfer(stream: &UnixStream, blocks: &mut Blocks, count: usize, writes: bool) -> io::Result<Duration> {
    let mut receive = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut sender = stream;
    let reply_bytes = if writes { 16 } else { 16 + BLOCK as usize };
    let data = vec![0x5a; BLOCK as usize];
    let mut reply = vec![0; reply_bytes];
    let mut requests = Vec::with_capacity(DEPTH * (28 + BLOCK as usize));
    let (mut sent, mut ended) = (0, 0);
    let started = Instant::now();
    while ended < count {
        requests.clear();
        while sent < count && sent - ended < DEPTH {
            let offset = blocks.next() * u64::from(BLOCK);
            let command = if writes { command::WRITE } else { command::READ };
            let mut encoder = Client { stream: io::Cursor::new(&mut requests) };
            encoder.stream.set_position(encoder.stream.get_ref().len() as u64);
            encoder.send(command, 0, sent as u64, offset, BLOCK, if writes { &data } else { &[] })?;
            sent += 1;
        }
        sender.write_all(&requests)?;
        // One at least, and all that have arrived with it.
        loop {
            receive.read_exact(&mut reply)?;
            if reply[4..8] != [0; 4] {
                return Err(io::Error::other("the server refused a request"));
            }
            ended += 1;
            if receive.buffer().len() < reply_bytes {
                break;
            }
        }
    }
    Ok(started.elapsed())
}

/// The median time of a flush after the write of a block.
fn flushes(client: &mut Client<UnixStream>, blocks: &mut Blocks, count: usize) -> io::Result<Duration> {
    let data = vec![0xa5; BLOCK as usize];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = blocks.next() * u64::from(BLOCK);
        client.send(command::WRITE, 0, 1, offset, BLOCK, &data)?;
        client.reply()?.result.map_err(|error| io::Error::other(format!("a write failed: {error}")))?;
        let started = Instant::now();
        client.send(command::FLUSH, 0, 2, 0, 0, &[])?;
        client.reply()?.result.map_err(|error| io::Error::other(format!("a flush failed: {error}")))?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let usage = "usage: nbd_bench SOCKET EXPORT read|write|flush COUNT [SEED], or nbd_bench seal FOLDER";
    if let [_, seal, folder] = &arguments[..]
        && seal == "seal"
    {
        let volume = Volume::open(Path::new(folder)).map_err(io::Error::other)?;
        return volume.seal().map(drop).map_err(io::Error::other);
    }
    let [_, socket, export, work, count, rest @ ..] = &arguments[..] else { panic!("{usage}") };
    let count: usize = count.parse().expect(usage);
    let seed = rest.first().map_or(1, |seed| seed.parse().expect(usage));
    let mut client = Client::greet(UnixStream::connect(socket)?)?;
    let about = client.go(export)?;
    let mut blocks = Blocks::new(about.size_bytes / u64::from(BLOCK), seed);
    let elapsed = match work.as_str() {
        "read" => transfer(&client.stream, &mut blocks, count, false)?,
        "write" => transfer(&client.stream, &mut blocks, count, true)?,
        "flush" => flushes(&mut client, &mut blocks, count)?,
        _ => panic!("{usage}"),
    };
    client.send(command::DISCONNECT, 0, 0, 0, 0, &[])?;
    println!("{:.9}", elapsed.as_secs_f64());
    Ok(())
}
