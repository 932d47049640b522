//! Writes the seeds of targets to where libFuzzer looks for them: `fuzz-seeds FOLDER [TARGET...]` makes `FOLDER/TARGET/seed-N`.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let folder =
        PathBuf::from(arguments.next().ok_or(io::Error::other("usage: fuzz-seeds FOLDER [TARGET...]"))?);
    let wanted: Vec<String> = arguments.collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    for target in fuzz::TARGETS.iter().filter(|target| is_wanted(target.name)) {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
