//! Makes Rust of the models in `models/`: one module for each service and one of what they share, in `OUT_DIR`.

mod model;
mod names;
mod operations;
mod shapes;
mod tables;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use model::Model;
use tables::Tables;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=models");
    let is_testing = env::var_os("CARGO_FEATURE_TESTING").is_some();
    let out = env::var("OUT_DIR")?;
    let mut tables = Tables::new();
    let mut paths: Vec<PathBuf> =
        fs::read_dir("models")?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let model = Model::read(&path)?;
        if model.metadata.is_for_tests && !is_testing {
            continue;
        }
        let service = path.file_stem().ok_or("a model without a name")?;
        let source = module(&model, is_testing, &mut tables);
        fs::write(Path::new(&out).join(service).with_extension("rs"), source)?;
    }
    fs::write(Path::new(&out).join("tables.rs"), tables.write())?;
    Ok(())
}

fn module(model: &Model, is_testing: bool, tables: &mut Tables) -> String {
    let mut source = String::from(
        "#[allow(unused_imports)]\nuse crate::generated::*;\n#[allow(unused_imports)]\nuse crate::generated as g;\n",
    );
    operations::write(model, &mut source);
    shapes::write(model, is_testing, tables, &mut source);
    source
}
