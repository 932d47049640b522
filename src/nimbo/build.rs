//! The program begins in `sys.rs`, which says why.

fn main() {
    println!("cargo:rustc-link-arg-bins=-Wl,--entry=nimbo_start");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    println!("cargo:rerun-if-changed=build.rs");
}
