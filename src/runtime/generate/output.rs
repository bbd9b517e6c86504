//! [`Output`]: tokens -> whole characters -> text without stop strings -> receiver.

use super::{Flow, Receive, StopReason};
use crate::error::Result;
use crate::runtime::ModelText;
use crate::text::{Detokenizer, StopMatcher};

/// The text of a generation; `None` where nobody wants any.
pub(super) struct Output(Option<Text>);

struct Text {
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

impl Output {
    pub fn new(text: &ModelText, stop: &[&str], has_receiver: bool) -> Result<Self> {
        let stop_matcher = StopMatcher::new(stop)?;
        if !has_receiver && stop.is_empty() {
            return Ok(Self(None));
        }
        Ok(Self(Some(Text {
            detokenizer: Detokenizer::new(text.tokenizer()?.clone(), true),
            stop: stop_matcher,
        })))
    }

    pub fn push(&mut self, token: i32, receive: &mut Receive<'_>) -> Result<Option<StopReason>> {
        let Some(Text { detokenizer, stop }) = &mut self.0 else {
            return Ok(None);
        };
        let unstopped = stop.push(detokenizer.push(token)?);
        let stopped = unstopped.stop.map(|_| StopReason::StopString);
        Ok(hand_over(receive, unstopped.text, token).or(stopped))
    }

    /// What was held back, since nothing follows that could change it.
    pub fn finish(&mut self, token: i32, receive: &mut Receive<'_>) -> Result<Option<StopReason>> {
        let Some(Text { detokenizer, stop }) = &mut self.0 else {
            return Ok(None);
        };
        let unstopped = stop.push(detokenizer.finish()?);
        if unstopped.stop.is_some() {
            hand_over(receive, unstopped.text, token);
            return Ok(Some(StopReason::StopString));
        }
        let mut rest = unstopped.text.to_owned();
        rest.push_str(stop.finish());
        Ok(hand_over(receive, &rest, token).and(None))
    }
}

fn hand_over(receive: &mut Receive<'_>, text: &str, token: i32) -> Option<StopReason> {
    let stops = !text.is_empty() && receive(text, token) == Flow::Stop;
    stops.then_some(StopReason::Receiver)
}
