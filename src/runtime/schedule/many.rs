//! A fixed number of requests, to their end.

use super::requests::RequestResult;
use super::{Context, Scheduler};
use crate::error::Result;
use crate::runtime::Cancel;

impl Scheduler {
    /// Runs what was submitted to its end and gives the results in the order of
    /// `submitted`, refusals in their places. If a step fails or is cancelled, the
    /// requests that have not ended by then have its error, the second value.
    pub fn run(
        mut self,
        context: &mut Context,
        submitted: Vec<Result<u64>>,
        cancel: Option<&Cancel>,
    ) -> (Vec<RequestResult>, Result<()>) {
        let outcome = self.run_steps(context, cancel);
        if let Err(error) = &outcome {
            self.end_all(context, error);
        }
        let result_of = |id: Result<u64>| id.and_then(|id| self.requests.take_result(id));
        let results = submitted
            .into_iter()
            .map(|id| result_of(id).unwrap_or_else(|error| RequestResult::refused(0, error)));
        (results.collect(), outcome)
    }

    fn run_steps(&mut self, context: &mut Context, cancel: Option<&Cancel>) -> Result<()> {
        while self.step(context, cancel)?.n_active() > 0 {}
        Ok(())
    }
}
