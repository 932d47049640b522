//! `nimbo console`: the serial console of an instance, on this terminal.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use types::InstanceId;
use vmm::control::client::{Client as Machine, ClientError, ConsoleStream};

use crate::client::{self, Which};
use crate::run::console::Console;
use crate::run::terminal::{RawMode, say};
use crate::serve::RUN_FOLDER;
use crate::signals::StopSignals;
use crate::socket;

const EXAMPLES: &str = "\
What the guest has written of late comes first. Keys go to the guest as they are, except Ctrl-], which leaves. One at a time may type; others
look on. It takes the user that the server runs as, on the server's machine.

Exit status:
  0  it was left, or the guest ended
  1  there is no server, no such instance or no console; a message tells why

Examples:
  nimbo console i-0123456789abcdef0";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    id: InstanceId,
    #[command(flatten)]
    which: Which,
    /// Where the server has its sockets
    #[arg(long, value_name = "FOLDER", default_value = RUN_FOLDER)]
    run: PathBuf,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let instance = client::run(async {
        let client = args.which.connect(true).await?;
        let instance = client.instance(args.id).await?;
        client.ensure_is_real(args.id)?;
        anyhow::Ok(instance)
    })?;
    if !matches!(instance.state.as_str(), "pending" | "running" | "stopping" | "shutting-down") {
        bail!("{} is {}: nimbo logs tells what it wrote", args.id, instance.state);
    }
    let console = attach(&args.run.join("instances").join(args.id.to_string()).join("control"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the event loop")?;
    let outcome = runtime.block_on(show(console));
    // A read of the terminal may be under way, and would be waited for.
    runtime.shutdown_background();
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// Attaches to the console of the microVM whose control socket this is: to type, if nobody else does.
fn attach(path: &Path) -> anyhow::Result<ConsoleStream> {
    let cannot = || format!("cannot reach the microVM at {}", path.display());
    let connect = || {
        let stream = socket::connect(path).with_context(cannot)?;
        Machine::over(stream).with_context(cannot)
    };
    match connect()?.attach_console(Some(0), true) {
        Err(ClientError::Refused { .. }) => {
            say("somebody else types: you only look on");
            connect()?.attach_console(Some(0), false).with_context(cannot)
        }
        attached => attached.with_context(cannot),
    }
}

async fn show(console: ConsoleStream) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    io::stdout().write_all(&console.received).context("cannot write to standard output")?;
    io::stdout().flush().context("cannot write to standard output")?;
    let raw_mode = RawMode::enter().context("cannot set up the terminal")?;
    if raw_mode.is_some() {
        say("keys go to the guest; press Ctrl-] to leave");
    }
    let console = Console::attach(console.stream)?;
    console.type_in(raw_mode.is_some())?;
    let is_left = tokio::select! {
        left = console.stay() => left?,
        () = signals.next() => true,
    };
    drop(raw_mode);
    say(if is_left { "left the console" } else { "the console has ended" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers requests for a console, one after the other; gives back their first lines.
    fn serve(listener: UnixListener, answers: Vec<String>) -> thread::JoinHandle<Vec<String>> {
        thread::spawn(move || {
            let answer = |answer: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                while !lines.next().unwrap().unwrap().is_empty() {}
                stream.write_all(answer.as_bytes()).unwrap();
                first
            };
            answers.into_iter().map(answer).collect()
        })
    }

    #[test]
    fn who_may_not_type_looks_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let body = r#"{"error":{"code":"console_in_use","message":"somebody types"}}"#;
        let refused = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let attached = "HTTP/1.1 101 Switching Protocols\r\n\r\nlogin: ".to_owned();
        let server = serve(UnixListener::bind(&path).unwrap(), vec![refused, attached]);
        let mut console = attach(&path).unwrap();
        let mut output = console.received;
        console.stream.read_to_end(&mut output).unwrap();
        assert_eq!(output, b"login: ");
        let asked = server.join().unwrap();
        assert!(asked[0].contains("input=true") && asked[1].contains("input=false"), "{asked:?}");
        let error = attach(&folder.path().join("nothing")).unwrap_err().to_string();
        assert!(error.contains("cannot reach the microVM"), "{error}");
    }
}
