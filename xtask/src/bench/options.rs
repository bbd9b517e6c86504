//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::plan::{self, Entry, Measurement};

#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// What is there beside one sequence and one token at a time: `bench sequences`.
    pub sequences: bool,
    pub quick: bool,
    /// Names of models and measurements; empty: all.
    pub only: Vec<String>,
    pub json: Option<PathBuf>,
    pub chart: Option<PathBuf>,
    pub readme: bool,
    /// An earlier run's JSON, shown instead of measuring.
    pub from: Option<PathBuf>,
}

const USAGE: &str = "usage: cargo xtask bench [sequences] [--quick] [--only NAMES] [--json FILE] \
    [--chart FILE] [--readme] [--from FILE]";

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter().peekable();
        options.sequences = args.next_if(|first| *first == "sequences").is_some();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("{arg} takes a value; {USAGE}"))
            };
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--readme" => options.readme = true,
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--json" => options.json = Some(value()?.into()),
                "--chart" => options.chart = Some(value()?.into()),
                "--from" => options.from = Some(value()?.into()),
                _ => bail!("{USAGE}"),
            }
        }
        Ok(options)
    }

    /// What is to be measured: of the whole plan where names say what.
    pub fn entries(&self) -> impl Iterator<Item = (&'static Entry, Vec<Measurement>)> {
        let plan = match (self.sequences, self.quick && self.only.is_empty()) {
            (false, false) => plan::FULL,
            (false, true) => plan::QUICK,
            (true, false) => plan::SEQUENCES,
            (true, true) => plan::SEQUENCES_QUICK,
        };
        let entries = plan
            .iter()
            .map(|entry| (entry, plan::wanted(entry, &self.only)));
        entries.filter(|(_, measurements)| !measurements.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn options_come_in_any_order() -> Result<()> {
        let options = parse("--json a.json --only decode,batch --quick --only open")?;
        assert!(options.quick && !options.readme);
        assert_eq!(options.only, ["decode", "batch", "open"]);
        assert_eq!(options.json, Some("a.json".into()));
        Ok(())
    }

    #[test]
    fn sequences_are_a_plan_of_their_own() -> Result<()> {
        let models = |line: &str| -> Result<Vec<&str>> {
            let options = parse(line)?;
            Ok(options.entries().map(|(entry, _)| entry.model).collect())
        };
        assert_eq!(models("sequences")?, ["1b-4bit", "1b-walk-4bit", "tales"]);
        assert_eq!(models("sequences --quick")?, ["0.3b-4bit", "tales"]);
        assert_eq!(models("sequences --only save")?, ["1b-4bit"]);
        assert!(parse("--quick sequences").is_err());
        Ok(())
    }

    #[test]
    fn a_mistake_is_answered_with_the_usage() {
        for line in ["--fast", "--json", "--only"] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("usage: cargo xtask bench"), "{error}");
        }
    }
}
