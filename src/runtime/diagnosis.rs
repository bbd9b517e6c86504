//! What is wrong with memory, and what to do about it.

use std::ffi::CStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::context::Context;
use super::residency::residences;
use super::stats::{MemoryStats, memory_stats};
use crate::error::Result;
use crate::memory::PressureLevel;

/// What can be found, the most urgent first. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Finding {
    FileChanged = 1,
    Swapping = 2,
    Paging = 3,
    OverBudget = 4,
    Pressure = 5,
    Loading = 6,
    ContextNearlyFull = 7,
    HeldTwice = 8,
    Normal = 0,
}

/// So many faults a second that read from disk are more than chance.
const PAGING_PER_SECOND: f64 = 50.0;
/// Swapped memory below this was not worth keeping in memory.
const SWAPPED_BYTES: usize = 16 << 20;
const NEARLY_FULL_PERCENT: usize = 90;
/// Resident weights below this share are still coming in.
const LOADED_PERCENT: usize = 95;

impl Finding {
    pub const ALL: [Finding; 9] = [
        Finding::FileChanged,
        Finding::Swapping,
        Finding::Paging,
        Finding::OverBudget,
        Finding::Pressure,
        Finding::Loading,
        Finding::ContextNearlyFull,
        Finding::HeldTwice,
        Finding::Normal,
    ];

    pub fn from_code(code: u32) -> Option<Finding> {
        Self::ALL
            .into_iter()
            .find(|finding| *finding as u32 == code)
    }

    /// What is the case.
    pub fn text(self) -> &'static CStr {
        match self {
            Finding::Normal => c"Memory is fine.",
            Finding::FileChanged => {
                c"A weight file was changed while its model is open: answers may be garbage, and \
                  reading a missing part ends the process."
            }
            Finding::Swapping => {
                c"Private memory of this process was moved to swap: every token may wait for the disk."
            }
            Finding::Paging => {
                c"Weights are read from disk again and again: they do not all fit into memory, so \
                  that every token waits for the disk."
            }
            Finding::OverBudget => c"Models and contexts hold more than models may use.",
            Finding::Pressure => {
                c"The system is short of memory: processes wait for it, this one perhaps too."
            }
            Finding::Loading => {
                c"Weights are still being read from disk for the first time: the first tokens are \
                  slow, later ones are not."
            }
            Finding::ContextNearlyFull => {
                c"A sequence has nearly reached n_ctx: generation will end with CONTEXT_FULL or NO_SPACE."
            }
            Finding::HeldTwice => {
                c"Weights had to be copied, so they are in memory and in the page cache."
            }
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static CStr {
        match self {
            Finding::Normal => c"Nothing to do.",
            Finding::FileChanged => {
                c"Free the model and open it again. Replace model files by renaming new ones over \
                  them, or open models with UMRT_LOAD_READ."
            }
            Finding::Swapping => {
                c"Free contexts or make them smaller (n_ctx, n_seq), call umrt_memory_trim, close \
                  other applications, or take a smaller model."
            }
            Finding::Paging => {
                c"Take a smaller model or one with fewer bits, release or free other models, close \
                  other applications; UMRT_RESIDENCY_LOCKED keeps the weights in if they fit."
            }
            Finding::OverBudget => {
                c"Free models or contexts, make contexts smaller (n_ctx, n_seq), or raise the limit \
                  that umrt_memory_info.usable_reason names."
            }
            Finding::Pressure => {
                c"Call umrt_memory_trim, begin nothing new, and close other applications; watch it \
                  with umrt_memory_pressure_callback."
            }
            Finding::Loading => {
                c"Wait, or bring the weights in ahead of the first question with \
                  umrt_model_residency(UMRT_RESIDENCY_WARM)."
            }
            Finding::ContextNearlyFull => {
                c"Trim the sequence (umrt_seq_trim), begin a new one, or make a context with a \
                  larger n_ctx."
            }
            Finding::HeldTwice => {
                c"Convert the checkpoint with aligned tensors; on a CPU no copy is needed at all."
            }
        }
    }
}

/// What was found, and the figures behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// The most urgent first; `Normal` alone if there is nothing.
    pub findings: Vec<Finding>,
    /// Faults that read from disk, since the last diagnosis.
    pub major_faults: u64,
    pub window: Duration,
    pub swapped_bytes: usize,
    /// What models and contexts hold in memory now, and what they may use.
    pub held_bytes: usize,
    pub usable_bytes: usize,
    /// Of the fullest sequence that was looked at.
    pub n_tokens: usize,
    pub n_ctx: usize,
}

/// Major faults at the last diagnosis.
static LAST: Mutex<Option<(Instant, u64)>> = Mutex::new(None);

/// Looks at the process, and at a context's sequences if one is given. Rates are
/// those since the last call; the first only begins the measurement.
pub fn diagnose(context: Option<&Context>) -> Result<Diagnosis> {
    let stats = memory_stats()?;
    let is_altered = residences()
        .iter()
        .any(|residence| residence.ensure_unaltered().is_err());
    let (window, major_faults) = faults_since_last(stats.process.major_faults);
    let mut diagnosis = Diagnosis {
        findings: Vec::new(),
        major_faults,
        window,
        swapped_bytes: stats.process.swapped,
        held_bytes: stats.total_here() + stats.weights.weights_resident,
        usable_bytes: stats.usable.usable_bytes,
        n_tokens: context.map_or(Ok(0), longest_sequence)?,
        n_ctx: context.map_or(0, Context::n_ctx),
    };
    diagnosis.findings = find(&diagnosis, &stats, is_altered);
    Ok(diagnosis)
}

fn faults_since_last(now: u64) -> (Duration, u64) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match last.replace((Instant::now(), now)) {
        Some((when, then)) => (when.elapsed(), now.saturating_sub(then)),
        None => (Duration::ZERO, 0),
    }
}

fn longest_sequence(context: &Context) -> Result<usize> {
    let mut lengths = (0..context.n_sequences()).map(|index| context.sequence_length(index as i32));
    lengths.try_fold(0, |longest, length| Ok(longest.max(length?)))
}

fn find(seen: &Diagnosis, stats: &MemoryStats, is_altered: bool) -> Vec<Finding> {
    let per_second = seen.major_faults as f64 / seen.window.as_secs_f64().max(0.1);
    let reads_from_disk = per_second >= PAGING_PER_SECOND;
    let weights = &stats.weights;
    let is_loaded = percent(weights.weights_resident, weights.weights_mapped) >= LOADED_PERCENT;
    let fits = stats.total_here() + weights.weights_mapped <= stats.usable.usable_bytes;
    let is_stalled = stats
        .pressure
        .is_some_and(|pressure| pressure.level() > PressureLevel::Normal);
    let checks = [
        (is_altered, Finding::FileChanged),
        (seen.swapped_bytes >= SWAPPED_BYTES, Finding::Swapping),
        (reads_from_disk && (is_loaded || !fits), Finding::Paging),
        (seen.held_bytes > seen.usable_bytes, Finding::OverBudget),
        (is_stalled, Finding::Pressure),
        (reads_from_disk && !is_loaded && fits, Finding::Loading),
        (
            seen.n_ctx > 0 && percent(seen.n_tokens, seen.n_ctx) >= NEARLY_FULL_PERCENT,
            Finding::ContextNearlyFull,
        ),
        (stats.copies_of_mapped() > 0, Finding::HeldTwice),
    ];
    let found = checks.into_iter().filter(|(is_so, _)| *is_so);
    let mut findings: Vec<_> = found.map(|(_, finding)| finding).collect();
    if findings.is_empty() {
        findings.push(Finding::Normal);
    }
    findings
}

/// All of nothing is there.
fn percent(part: usize, whole: usize) -> usize {
    match whole {
        0 => 100,
        _ => (part as u128 * 100 / whole as u128) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Bound, Pressure, Usable};

    const MIB: usize = 1 << 20;

    fn calm() -> (Diagnosis, MemoryStats) {
        let diagnosis = Diagnosis {
            findings: Vec::new(),
            major_faults: 0,
            window: Duration::from_secs(1),
            swapped_bytes: 0,
            held_bytes: 500 * MIB,
            usable_bytes: 1000 * MIB,
            n_tokens: 10,
            n_ctx: 100,
        };
        let mut stats = MemoryStats::empty(Usable {
            physical_bytes: 2000 * MIB,
            usable_bytes: 1000 * MIB,
            bound: Bound::PhysicalShare,
        });
        stats.weights.weights_mapped = 500 * MIB;
        stats.weights.weights_resident = 500 * MIB;
        (diagnosis, stats)
    }

    fn found(change: impl FnOnce(&mut Diagnosis, &mut MemoryStats)) -> Vec<Finding> {
        let (mut diagnosis, mut stats) = calm();
        change(&mut diagnosis, &mut stats);
        find(&diagnosis, &stats, false)
    }

    #[test]
    fn each_symptom_has_its_name() {
        assert_eq!(found(|_, _| ()), [Finding::Normal]);
        assert_eq!(found(|seen, _| seen.major_faults = 60), [Finding::Paging]);
        assert_eq!(found(|seen, _| seen.major_faults = 40), [Finding::Normal]);
        assert_eq!(
            found(|seen, stats| {
                seen.major_faults = 60;
                stats.weights.weights_resident = 100 * MIB;
            }),
            [Finding::Loading]
        );
        assert_eq!(
            found(|seen, stats| {
                seen.major_faults = 60;
                stats.weights.weights_resident = 900 * MIB;
                stats.weights.weights_mapped = 1100 * MIB;
            }),
            [Finding::Paging],
            "it cannot fit"
        );
        assert_eq!(
            found(|seen, _| seen.swapped_bytes = 20 * MIB),
            [Finding::Swapping]
        );
        assert_eq!(
            found(|seen, _| seen.held_bytes = 1001 * MIB),
            [Finding::OverBudget]
        );
        assert_eq!(
            found(|seen, _| seen.n_tokens = 90),
            [Finding::ContextNearlyFull]
        );
        let stalled = Pressure {
            some_percent: 20.0,
            full_percent: 0.0,
        };
        assert_eq!(
            found(|_, stats| stats.pressure = Some(stalled)),
            [Finding::Pressure]
        );
    }

    #[test]
    fn the_most_urgent_comes_first() {
        let (mut diagnosis, stats) = calm();
        diagnosis.n_tokens = 100;
        diagnosis.swapped_bytes = 20 * MIB;
        assert_eq!(
            find(&diagnosis, &stats, true),
            [
                Finding::FileChanged,
                Finding::Swapping,
                Finding::ContextNearlyFull
            ]
        );
    }

    #[test]
    fn every_code_has_a_text_and_an_advice() {
        for finding in Finding::ALL {
            assert_eq!(Finding::from_code(finding as u32), Some(finding));
            assert!(finding.text().count_bytes() > 10 && finding.advice().count_bytes() > 10);
        }
        assert_eq!(Finding::from_code(99), None);
    }
}
