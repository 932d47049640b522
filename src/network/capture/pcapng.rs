//! Files of captured frames: pcapng (IETF draft-ietf-opsawg-pcapng), which says of each frame from which interface it is and which way it went.
//!
//! ```text
//! section header │ interface description, … │ enhanced packet, … │ interface statistics, …
//! ```
//! Each block is `type: u32, length: u32, body, length: u32`, each option of it `code: u16, length: u16, value`, in little-endian order and
//! filled up to 4 bytes.

use std::io::{self, Write};

use super::Direction;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// In a section header: which byte order is the file's.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;

/// Codes of options, by the blocks that have them.
const END_OF_OPTIONS: u16 = 0;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_TIME_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// Times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// An interface whose frames are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// How much of each frame is kept; 0 for all.
    pub snaplen: u32,
}

/// Writes a file, or a stream.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file of the frames of `interfaces`, which are numbered by their order. `application` says who wrote it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(out: W, application: &str, interfaces: &[Interface]) -> io::Result<Self> {
        let mut writer = Writer { out, block: Vec::new() };
        writer.begin(SECTION_HEADER);
        writer.number(BYTE_ORDER);
        // Version 1.0, and a section of which nobody knows how long it becomes.
        writer.block.extend([1, 0, 0, 0]);
        writer.block.extend([0xff; 8]);
        writer.option(SECTION_APPLICATION, application.as_bytes());
        writer.end()?;
        for interface in interfaces {
            writer.begin(INTERFACE_DESCRIPTION);
            writer.block.extend(ETHERNET.to_le_bytes());
            writer.block.extend([0; 2]);
            writer.number(interface.snaplen);
            writer.option(INTERFACE_NAME, interface.name.as_bytes());
            writer.option(INTERFACE_TIME_RESOLUTION, &[NANOSECONDS]);
            writer.end()?;
        }
        Ok(writer)
    }

    /// Adds a frame of `length` bytes, of which `frame` is all or the beginning. `time_ns` counts from 1970.
    ///
    /// # Errors
    /// Those of writing.
    pub fn packet(
        &mut self,
        interface: u32,
        time_ns: u64,
        direction: Direction,
        length: u32,
        frame: &[u8],
    ) -> io::Result<()> {
        self.begin(ENHANCED_PACKET);
        self.number(interface);
        self.time(time_ns);
        self.number(u32::try_from(frame.len()).map_err(io::Error::other)?);
        self.number(length);
        self.bytes(frame);
        let flags: u32 = match direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        self.option(PACKET_FLAGS, &flags.to_le_bytes());
        self.end()
    }

    /// Adds how many frames of an interface there were until `time_ns`, and how many of them are missing.
    ///
    /// # Errors
    /// Those of writing.
    pub fn statistics(
        &mut self,
        interface: u32,
        time_ns: u64,
        received: u64,
        dropped: u64,
    ) -> io::Result<()> {
        self.begin(INTERFACE_STATISTICS);
        self.number(interface);
        self.time(time_ns);
        self.option(STATISTICS_RECEIVED, &received.to_le_bytes());
        self.option(STATISTICS_DROPPED, &dropped.to_le_bytes());
        self.end()
    }

    /// # Errors
    /// Those of writing.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.number(kind);
        // The length, which is not known yet.
        self.number(0);
    }

    fn number(&mut self, number: u32) {
        self.block.extend(number.to_le_bytes());
    }

    /// The more significant half first, each in its own order.
    fn time(&mut self, time_ns: u64) {
        let [low, high] = [time_ns & u64::from(u32::MAX), time_ns >> u32::BITS];
        for half in [high, low] {
            self.number(u32::try_from(half).unwrap_or(u32::MAX));
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.block.extend(code.to_le_bytes());
        self.block.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes(&value[..value.len().min(usize::from(u16::MAX))]);
    }

    fn end(&mut self) -> io::Result<()> {
        self.option(END_OF_OPTIONS, &[]);
        let length = u32::try_from(self.block.len() + 4).map_err(io::Error::other)?;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.number(length);
        self.out.write_all(&self.block)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::super::packet::tests::tcp;
    use super::*;

    fn file() -> Vec<u8> {
        let interfaces = ["eni-1", "eni-22"].map(|name| Interface { name: name.to_owned(), snaplen: 60 });
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "nimbo", &interfaces).unwrap();
        let time_ns = 1_764_115_200_123_456_789;
        writer.packet(0, time_ns, Direction::Out, 54, &tcp(51514, 80, 2)).unwrap();
        writer.packet(1, time_ns + 1, Direction::In, 1514, &tcp(80, 51514, 18)[..53]).unwrap();
        writer.statistics(0, time_ns + 2, 1, 7).unwrap();
        file
    }

    #[test]
    fn blocks_are_whole_words_with_their_length_at_both_ends() {
        let file = file();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let length = usize::try_from(word(at + 4)).unwrap();
            assert!(length.is_multiple_of(4) && word(at + length - 4) == word(at + 4));
            kinds.push(word(at));
            at += length;
        }
        let expected = [SECTION_HEADER, 1, 1, ENHANCED_PACKET, ENHANCED_PACKET, INTERFACE_STATISTICS];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn tcpdump_reads_it() {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-n", "-tt", "--nano", "-r", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tcpdump.spawn().expect("scripts/deps installs tcpdump");
        child.stdin.take().unwrap().write_all(&file()).unwrap();
        let mut told = String::new();
        child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(child.wait().unwrap().success());
        let [first, second] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
        assert!(
            first.starts_with("1764115200.123456789") && second.starts_with("1764115200.123456790"),
            "{told}"
        );
        assert!(
            first.contains("10.0.0.4.51514 > 10.0.0.5.80") && second.contains("10.0.0.4.80 > 10.0.0.5.51514")
        );
    }
}
