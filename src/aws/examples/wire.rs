//! A server of every operation that there are types for, whose outputs come from its standard input: what tests/native/test_wire.py
//! tries clients with.
//!
//! It prints the port that it listens on. For each request then, it takes a line, `{"output": …}` or `{"error": {"code": …, "message": …}}`, as
//! the next answer, and prints `{"operation": …, "input": …}`, all by the names of the models.

use std::error::Error as StdError;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use aws::api::Api;
use aws::decode::Decode;
use aws::encode::Encode;
use aws::server::{Limits, serve};
use aws::service::{Operation, Visitor};
use aws::sigv4::{Credential, Credentials, Verifier};
use aws::testing::{cloudwatch, efs, from_json, to_json};
use aws::{Call, Error, Table, autoscaling, ec2, elbv2, sts};
use types::SystemClock;

type Context = Arc<Mutex<mpsc::Receiver<String>>>;

struct All(Table<Context>);

impl Visitor for All {
    fn visit<O: Operation<Input: Encode, Output: Decode + Encode>>(&mut self) {
        self.0 = std::mem::take(&mut self.0).serve_now::<O>(echo::<O>);
    }
}

fn echo<O: Operation<Input: Encode, Output: Decode>>(
    lines: Context,
    call: Call<O::Input>,
) -> Result<O::Output, Error> {
    let input = String::from_utf8_lossy(&to_json(&call.input)).into_owned();
    println!("{{\"operation\":\"{}\",\"input\":{input}}}", O::INFO.name);
    let broken = |what: String| Error::new("InternalError", what);
    std::io::stdout().flush().map_err(|error| broken(error.to_string()))?;
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let line = lines.recv().map_err(|error| broken(error.to_string()))?;
    let answer: serde_json::Value = serde_json::from_str(&line).map_err(|error| broken(error.to_string()))?;
    if let Some(error) = answer.get("error") {
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        return Err(Error::new(text("code"), text("message")));
    }
    from_json::<O::Output>(answer["output"].to_string().as_bytes()).map_err(broken)
}

struct Known;

impl Credentials for Known {
    fn find(&self, access_key: &str) -> Option<Credential> {
        (access_key == "AKIDEXAMPLE").then(|| Credential {
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            account: "123456789012".into(),
            arn: "arn:aws:iam::123456789012:root".into(),
            user_id: "123456789012".into(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut all = All(Table::new());
    ec2::visit(&mut all);
    sts::visit(&mut all);
    autoscaling::visit(&mut all);
    cloudwatch::visit(&mut all);
    efs::visit(&mut all);
    elbv2::visit(&mut all);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        // Who started this is gone.
        std::process::exit(0);
    });
    let verifier = Verifier::new(Arc::new(Known), Arc::new(SystemClock));
    let api = Arc::new(Api { table: all.0, verifier, context: Arc::new(Mutex::new(receiver)) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    serve(listener, api, Limits::default()).await;
    Ok(())
}
