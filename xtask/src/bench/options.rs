//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::plan::{self, Entry, Measurement};

#[derive(Debug, Default, PartialEq)]
pub struct Options {
    pub quick: bool,
    /// Names of models and measurements; empty: all.
    pub only: Vec<String>,
    pub json: Option<PathBuf>,
    pub chart: Option<PathBuf>,
    pub readme: bool,
    /// An earlier run's JSON, shown instead of measuring.
    pub from: Option<PathBuf>,
}

const USAGE: &str = "usage: cargo xtask bench [--quick] [--only NAMES] [--json FILE] \
    [--chart FILE] [--readme] [--from FILE]";

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
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
        let plan = if self.quick && self.only.is_empty() {
            plan::QUICK
        } else {
            plan::FULL
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
    fn a_mistake_is_answered_with_the_usage() {
        for line in ["--fast", "--json", "--only"] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("usage: cargo xtask bench"), "{error}");
        }
    }
}
