//! The command line of Jan Server.
fn main() {}
