//! A client for tests and measurements: it does what it is told, also what it must not.

use std::io::{self, Read, Write};

use super::protocol::{
    Fields, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, RequestHeader, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, info, option, option_reply,
};

pub use super::protocol::{allocation_flag, command, command_flag, transmission_flag};

/// What an export was said to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub size_bytes: u64,
    pub flags: u16,
    /// The least, the preferred and the largest, in bytes.
    pub block_bytes: Option<[u32; 3]>,
    pub name: Option<String>,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    /// An error of the protocol.
    pub result: Result<(), u32>,
    /// What a structured reply brought. That of a simple one is [to be read](Client::read_data) by who knows how long it is.
    pub data: Vec<u8>,
    pub is_structured: bool,
}

/// A connection.
pub struct Client<S> {
    pub stream: S,
}

impl<S: Read + Write> Client<S> {
    /// Begins the handshake.
    ///
    /// # Errors
    /// When the connection fails or the server is none.
    pub fn greet(mut stream: S) -> io::Result<Self> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let mut fields = Fields(&greeting);
        if fields.u64() != Some(GREETING_MAGIC) || fields.u64() != Some(OPTION_MAGIC) {
            return Err(wrong("no greeting"));
        }
        stream.write_all(&u32::from(fields.u16().unwrap_or_default()).to_be_bytes())?;
        Ok(Self { stream })
    }

    /// Sends an option and takes its replies, kinds and data, up to the last one.
    ///
    /// # Errors
    /// When the connection fails or the replies make no sense.
    pub fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<(u32, Vec<u8>)>> {
        let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend(length(data).to_be_bytes());
        message.extend(data);
        self.stream.write_all(&message)?;
        let mut replies = Vec::new();
        loop {
            let mut header = [0; 20];
            self.stream.read_exact(&mut header)?;
            let mut fields = Fields(&header);
            if fields.u64() != Some(OPTION_REPLY_MAGIC) || fields.u32() != Some(option) {
                return Err(wrong("no reply to the option"));
            }
            let kind = fields.u32().unwrap_or_default();
            let mut data = vec![0; fields.u32().unwrap_or_default() as usize];
            self.stream.read_exact(&mut data)?;
            replies.push((kind, data));
            if kind == option_reply::ACK || kind >> 31 != 0 {
                return Ok(replies);
            }
        }
    }

    /// Asks for structured replies.
    ///
    /// # Errors
    /// As for [`option`](Self::option), and when they are refused.
    pub fn ask_for_structured_replies(&mut self) -> io::Result<()> {
        match self.option(option::STRUCTURED_REPLY, &[])?.as_slice() {
            [(option_reply::ACK, _)] => Ok(()),
            _ => Err(wrong("no structured replies")),
        }
    }

    /// Chooses contexts of metadata of an export; says which there are, with their numbers.
    ///
    /// # Errors
    /// As for [`option`](Self::option), and when the server refuses.
    pub fn choose_contexts(&mut self, name: &str, queries: &[&str]) -> io::Result<Vec<(u32, String)>> {
        let mut replies = self.option(option::SET_META_CONTEXT, &context_request(name, queries))?;
        match replies.pop() {
            Some((option_reply::ACK, _)) => Ok(contexts(&replies)),
            _ => Err(wrong("no contexts")),
        }
    }

    /// Chooses an export; requests can be sent then.
    ///
    /// # Errors
    /// As for [`option`](Self::option), and `NotFound` when there is no such export.
    pub fn go(&mut self, name: &str) -> io::Result<About> {
        self.about(option::GO, name)
    }

    /// Asks about an export.
    ///
    /// # Errors
    /// As for [`go`](Self::go).
    pub fn info(&mut self, name: &str) -> io::Result<About> {
        self.about(option::INFO, name)
    }

    fn about(&mut self, option: u32, name: &str) -> io::Result<About> {
        let mut data = length(name.as_bytes()).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend(2u16.to_be_bytes());
        data.extend(info::NAME.to_be_bytes());
        data.extend(info::BLOCK_SIZE.to_be_bytes());
        let mut about = About::default();
        for (kind, data) in self.option(option, &data)? {
            let mut fields = Fields(&data);
            match (kind, fields.u16()) {
                (option_reply::ACK, None) => {}
                (option_reply::ERR_UNKNOWN, _) => return Err(io::ErrorKind::NotFound.into()),
                (option_reply::INFO, Some(info::EXPORT)) => {
                    about.size_bytes = fields.u64().ok_or_else(|| wrong("no size"))?;
                    about.flags = fields.u16().ok_or_else(|| wrong("no flags"))?;
                }
                (option_reply::INFO, Some(info::BLOCK_SIZE)) => {
                    let mut size = || fields.u32().ok_or_else(|| wrong("no block size"));
                    about.block_bytes = Some([size()?, size()?, size()?]);
                }
                (option_reply::INFO, Some(info::NAME)) => {
                    about.name = Some(String::from_utf8_lossy(fields.0).into_owned());
                }
                _ => return Err(wrong("not what was asked for")),
            }
        }
        Ok(about)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        cookie: u64,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let header = RequestHeader { flags, command, cookie, offset, len };
        self.stream.write_all(&[&header.encode(), data].concat())
    }

    /// Takes a reply. The data of a simple one is left in the stream.
    ///
    /// # Errors
    /// When the connection fails or it is no reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let mut fields = Fields(&header);
        let magic = fields.u32().unwrap_or_default();
        let second = fields.u32().unwrap_or_default();
        let cookie = fields.u64().unwrap_or_default();
        match magic {
            SIMPLE_REPLY_MAGIC => {
                let result = if second == 0 { Ok(()) } else { Err(second) };
                Ok(Reply { cookie, result, data: Vec::new(), is_structured: false })
            }
            STRUCTURED_REPLY_MAGIC => self.chunk(second, cookie),
            _ => Err(wrong("no reply")),
        }
    }

    /// The only chunk of a reply.
    fn chunk(&mut self, flags_and_kind: u32, cookie: u64) -> io::Result<Reply> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut payload = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut payload)?;
        let mut fields = Fields(&payload);
        let (result, data) = match flags_and_kind {
            0x1_0000 if payload.is_empty() => (Ok(()), Vec::new()),
            0x1_0001 => {
                fields.u64().ok_or_else(|| wrong("no offset"))?;
                (Ok(()), fields.0.to_vec())
            }
            0x1_0005 => {
                fields.u32().ok_or_else(|| wrong("no context"))?;
                (Ok(()), fields.0.to_vec())
            }
            0x1_8001 => (Err(fields.u32().ok_or_else(|| wrong("no error"))?), Vec::new()),
            _ => return Err(wrong("not a chunk that is the only one")),
        };
        Ok(Reply { cookie, result, data, is_structured: true })
    }

    /// Takes the data that follow a simple reply to a read.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn read_data(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }
}

/// The data of an option about contexts.
pub(super) fn context_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let string = |text: &str| [&length(text.as_bytes()).to_be_bytes()[..], text.as_bytes()].concat();
    let count = u32::try_from(queries.len()).expect("tests ask for little");
    let queries = queries.iter().flat_map(|query| string(query));
    [string(name), count.to_be_bytes().to_vec(), queries.collect()].concat()
}

/// The contexts that a server told of.
pub(super) fn contexts(replies: &[(u32, Vec<u8>)]) -> Vec<(u32, String)> {
    let context = |(kind, data): &(u32, Vec<u8>)| {
        let mut fields = Fields(data);
        let id = fields.u32().filter(|_| *kind == option_reply::META_CONTEXT)?;
        Some((id, String::from_utf8_lossy(fields.0).into_owned()))
    };
    replies.iter().filter_map(context).collect()
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("tests send little")
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
