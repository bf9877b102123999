mod alone;
mod backend;
mod cases;
mod harness;
mod state_machine;
mod turns;
