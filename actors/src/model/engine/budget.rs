//! stub
#[derive(Debug)] pub struct StepBudget(usize);
impl StepBudget { pub fn new(_: std::time::Duration, _: std::time::Duration, m: usize) -> Self { Self(m) } pub fn next(&mut self, d: usize) -> usize { if d>0 {32} else {self.0} } pub fn observe(&mut self, _: usize, _: usize, _: std::time::Duration) {} }
