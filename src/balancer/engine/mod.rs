//! Sockets, for one thread: what is to be done is told, and what has been done is waited for.
//!
//! All that many connections want goes to the kernel in one system call, and that call brings what has come of it. A connection that waits for data
//! has no memory for them: the kernel takes some when they come.

#[allow(unsafe_code)]
mod sys;

pub(crate) use sys::{Buffer, Completion, Data, Outcome, Ring, Socket};

#[cfg(test)]
mod tests;
