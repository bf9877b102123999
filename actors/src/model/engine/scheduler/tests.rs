mod backend;
mod harness;
mod state_machine;
