//! [`Output`]: tokens -> whole characters -> text without stop strings -> receiver.

use super::{Flow, GenerateOptions, Receive, StopReason};
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
    pub fn new(
        text: &ModelText,
        options: &GenerateOptions<'_>,
        has_receiver: bool,
    ) -> Result<Self> {
        let stop = StopMatcher::new(options.stop)?;
        if !has_receiver && options.stop.is_empty() {
            return Ok(Self(None));
        }
        let tokenizer = text.tokenizer()?.clone();
        let detokenizer = match options.constraint {
            // It says what comes first, and that is all of the text.
            Some(_) => Detokenizer::continuing(tokenizer, true),
            None => Detokenizer::new(tokenizer, true),
        };
        Ok(Self(Some(Text { detokenizer, stop })))
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
