//! A report with invented figures, for tests.

use std::collections::BTreeMap;

use super::report::{Machine, Meaning, Peer, Report, Row, Skipped, Unit};

pub fn report() -> Report {
    let rates = Unit::TokensPerSecond;
    Report {
        machine: Machine {
            cpu: "A CPU".into(),
            threads: 2,
            memory_bytes: 24 << 30,
        },
        versions: BTreeMap::from([("llama.cpp".into(), "1.2.3".into())]),
        quick: false,
        read_bandwidth: vec![19e9, 20e9],
        rows: vec![
            row(
                "decode",
                rates,
                30.0,
                20.0,
                Meaning::BytesPerToken(600_000_000),
            ),
            row("decode-8k", rates, 20.0, 16.0, Meaning::Nothing),
            row(
                "prefill-512",
                rates,
                90.0,
                50.0,
                Meaning::FlopPerToken(2_000_000_000),
            ),
            row("batch-1", rates, 30.0, 20.0, Meaning::TokensPerStep(1)),
            row("batch-4", rates, 80.0, 50.0, Meaning::TokensPerStep(4)),
            row("first-token", Unit::Seconds, 0.2, 1.0, Meaning::Nothing),
            row(
                "memory",
                Unit::Bytes,
                20e6,
                700e6,
                Meaning::WeightBytes(600_000_000),
            ),
            row(
                "fork-bytes",
                Unit::Bytes,
                8e6,
                100e6,
                Meaning::CacheBlockBytes(8_388_608),
            ),
            row("save", Unit::BytesPerSecond, 1e9, 1.1e9, Meaning::Nothing),
            row("busy-core", Unit::Share, 0.5, 0.1, Meaning::Nothing),
        ],
        skipped: vec![Skipped {
            what: "3b-bf16".into(),
            reason: "no room".into(),
        }],
    }
}

fn row(measurement: &str, unit: Unit, umrt: f64, peer: f64, meaning: Meaning) -> Row {
    Row {
        model: "1b-4bit".into(),
        measurement: measurement.into(),
        unit,
        umrt: vec![umrt; 3],
        peer: Some(Peer {
            name: "llama.cpp Q4_0".into(),
            values: vec![peer; 3],
        }),
        meaning,
        read_bandwidth: match meaning {
            Meaning::BytesPerToken(_) => vec![20e9; 3],
            _ => Vec::new(),
        },
    }
}
