//! Quantizing a checkpoint into a new one.

use std::path::Path;

use super::cancel::Cancel;
use crate::convert::{self, QuantizeSettings};
use crate::error::Result;
use crate::host;
use crate::log;

/// Whom to tell about the progress, and who may stop it.
#[derive(Default)]
pub struct QuantizeWatch<'a> {
    /// Called with (done, total) bytes of the source.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
    pub cancel: Option<&'a Cancel>,
}

/// Writes the checkpoint at `source` to the directory `target`, which is complete
/// then; if it fails or is cancelled, nothing is there.
pub fn quantize(
    source: &Path,
    target: &Path,
    settings: &QuantizeSettings,
    watch: QuantizeWatch<'_>,
) -> Result<()> {
    host::ensure_not_forked()?;
    let mut report = watch.progress;
    let mut progress = |done: usize, total: usize| {
        if let Some(report) = report.as_mut() {
            report(done, total);
        }
        watch.cancel.map_or(Ok(()), Cancel::check)
    };
    convert::quantize(source, target, settings, &mut progress)?;
    log::info(format_args!(
        "quantized {} to {}",
        source.display(),
        target.display()
    ));
    Ok(())
}
