//! Experts by mlx-lm's names: a stack for each of gate, up and down, whatever the source
//! has: experts by number, gate and up as one, matrices by input.

use std::collections::BTreeMap;

use super::plan::{Output, Part, float_of, whole};
use crate::checkpoint::TensorInfo;
use crate::decoder::{ExpertNames, ExpertsSpec};
use crate::error::{Error, Result};
use crate::mlx::RowOrder;

pub struct Experts {
    names: ExpertNames,
    /// Gate, up and down of a stack.
    linears: [&'static str; 3],
}

/// One of several outputs whose rows are in one tensor.
#[derive(Clone, Copy)]
struct Share {
    index: usize,
    count: usize,
}

impl Experts {
    pub fn of(spec: &ExpertsSpec) -> Experts {
        Experts {
            names: spec.names,
            linears: spec.stacked_linears(),
        }
    }

    /// Of a tensor of one expert: the name of the stack, and its number there.
    pub fn one(&self, name: &str) -> Option<(String, usize)> {
        let (before, rest) = name.split_once(&format!(".{}.", self.names.separate))?;
        let mut parts = rest.splitn(3, '.');
        let index = parts.next()?.parse().ok()?;
        let (linear, kind) = (parts.next()?, parts.next()?);
        let place = self.names.linears.iter().position(|own| *own == linear)?;
        Some((self.stack(&format!("{before}."), place, kind), index))
    }

    /// Of a tensor of all experts, of which gate and up are one: its parts, by output.
    pub fn joined(&self, name: &str, tensor: &TensorInfo) -> Option<Vec<Output>> {
        let names = self.names.joined?;
        float_of(tensor.dtype)?;
        let (module, kind, by_input) = match name.strip_suffix(".weight") {
            Some(module) => (module, "weight", false),
            None => match name.strip_suffix("_bias") {
                Some(module) => (module, "bias", false),
                None => (name, "weight", names.by_input),
            },
        };
        let (before, places) = match module.strip_suffix(names.gate_up) {
            Some(before) => (before, &[0, 1][..]),
            None => (module.strip_suffix(names.down)?, &[2][..]),
        };
        let count = places.len();
        let outputs = places.iter().enumerate().map(|(index, place)| {
            let name = self.stack(before, *place, kind);
            let share = Share { index, count };
            match kind {
                "bias" => biases(name, tensor, share, names.order),
                _ => matrices(name, tensor, share, names.order, by_input),
            }
        });
        outputs.collect()
    }

    fn stack(&self, before: &str, place: usize, kind: &str) -> String {
        format!(
            "{before}{}.{}.{kind}",
            self.names.stacked, self.linears[place]
        )
    }
}

impl Share {
    /// Its rows of `n`: the first, and the steps between them.
    fn rows(self, n: usize, order: RowOrder) -> Option<(usize, usize)> {
        if !n.is_multiple_of(self.count) {
            return None;
        }
        Some(match order {
            RowOrder::GateFirst => (self.index * (n / self.count), 1),
            RowOrder::InTurn => (self.index, self.count),
        })
    }
}

fn matrices(
    name: String,
    tensor: &TensorInfo,
    share: Share,
    order: RowOrder,
    by_input: bool,
) -> Option<Output> {
    let (n, all_rows, columns) = match tensor.shape[..] {
        [n, columns, rows] if by_input => (n, rows, columns),
        [n, rows, columns] => (n, rows, columns),
        _ => return None,
    };
    let (row_step, column_step) = match by_input {
        true => (1, all_rows),
        false => (columns, 1),
    };
    let (first, every) = share.rows(all_rows, order)?;
    let size = tensor.dtype.size();
    let part = |expert: usize| Part {
        file: tensor.file,
        start: tensor.offset + (expert * all_rows * columns + first * row_step) * size,
        n_rows: all_rows / share.count,
        row_step: every * row_step,
        column_step,
    };
    Some(Output {
        shape: vec![n, all_rows / share.count, columns],
        parts: (0..n).map(part).collect(),
        ..whole(name, tensor)
    })
}

/// A value for each row of each expert.
fn biases(name: String, tensor: &TensorInfo, share: Share, order: RowOrder) -> Option<Output> {
    let [n, all] = tensor.shape[..] else {
        return None;
    };
    let (first, every) = share.rows(all, order)?;
    Some(Output {
        shape: vec![n, all / share.count],
        parts: vec![Part {
            file: tensor.file,
            start: tensor.offset + first * tensor.dtype.size(),
            n_rows: n,
            row_step: all,
            column_step: every,
        }],
        ..whole(name, tensor)
    })
}

/// The same tensor of all experts.
pub fn stacked(name: String, tensors: &BTreeMap<usize, &TensorInfo>) -> Result<Output> {
    let first = tensors.values().next().expect("a stack of something");
    let is_alike = |(index, (number, tensor)): (usize, (&usize, &&TensorInfo))| {
        index == *number && tensor.shape == first.shape && tensor.dtype == first.dtype
    };
    if !tensors.iter().enumerate().all(is_alike) {
        return Err(Error::format(format!(
            "the experts of {name} are not numbered from 0 on, or differ in shape or type"
        )));
    }
    let mut shape = vec![tensors.len()];
    shape.extend(&first.shape);
    let part = |tensor: &&TensorInfo| Part::all_of(tensor, &tensor.shape);
    Ok(Output {
        shape,
        parts: tensors.values().map(part).collect(),
        ..whole(name, first)
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::tensor;
    use super::*;
    use crate::decoder::JoinedNames;

    fn experts(order: RowOrder, by_input: bool) -> Experts {
        let names = ExpertNames {
            router: "mlp.gate",
            converted_router: None,
            stacked: "mlp.switch_mlp",
            separate: "mlp.experts",
            linears: ["w1", "w3", "w2"],
            joined: Some(JoinedNames {
                gate_up: "mlp.experts.gate_up_proj",
                down: "mlp.experts.down_proj",
                order,
                by_input,
            }),
        };
        Experts {
            names,
            linears: ["gate_proj", "up_proj", "down_proj"],
        }
    }

    /// Shape, and for each part where it starts in elements, its rows and its steps.
    type Facts = (Vec<usize>, Vec<[usize; 4]>);

    fn facts(output: &Output) -> Facts {
        let part = |part: &Part| {
            let start = (part.start - 100) / 2;
            [start, part.n_rows, part.row_step, part.column_step]
        };
        (
            output.shape.clone(),
            output.parts.iter().map(part).collect(),
        )
    }

    #[test]
    fn numbered_experts_become_stacks() {
        let experts = experts(RowOrder::GateFirst, false);
        let found = experts.one("model.layers.3.mlp.experts.12.w2.weight");
        let name = "model.layers.3.mlp.switch_mlp.down_proj.weight";
        assert_eq!(found, Some((name.to_owned(), 12)));
        for other in [
            "model.layers.3.mlp.experts.gate_up_proj",
            "model.layers.3.mlp.shared_experts.w1.weight",
            "model.layers.3.mlp.experts.1.w4.weight",
        ] {
            assert_eq!(experts.one(other), None, "{other}");
        }
    }

    fn halves(experts: &Experts, name: &str, shape: &[usize]) -> Vec<(String, Facts)> {
        let outputs = experts.joined(name, &tensor(shape)).unwrap_or_default();
        let fact = |output: &Output| (output.name.clone(), facts(output));
        outputs.iter().map(fact).collect()
    }

    const GATE_UP: &str = "m.mlp.experts.gate_up_proj";
    const GATE: &str = "m.mlp.switch_mlp.gate_proj.weight";
    const UP: &str = "m.mlp.switch_mlp.up_proj.weight";

    #[test]
    fn gate_and_up_by_output_are_parts_of_the_rows() {
        let of = |order, name: &str| halves(&experts(order, false), name, &[2, 6, 8]);
        let shape = vec![2, 3, 8];
        let gate = (shape.clone(), vec![[0, 3, 8, 1], [48, 3, 8, 1]]);
        let up = (shape.clone(), vec![[24, 3, 8, 1], [72, 3, 8, 1]]);
        let expected = vec![(GATE.to_owned(), gate), (UP.to_owned(), up)];
        assert_eq!(of(RowOrder::GateFirst, GATE_UP), expected);
        assert_eq!(
            of(RowOrder::GateFirst, &format!("{GATE_UP}.weight")),
            expected
        );
        let up = (shape, vec![[8, 3, 16, 1], [56, 3, 16, 1]]);
        assert_eq!(of(RowOrder::InTurn, GATE_UP)[1], (UP.to_owned(), up));
        assert!(halves(&experts(RowOrder::GateFirst, false), GATE_UP, &[2, 5, 8]).is_empty());
        assert!(halves(&experts(RowOrder::GateFirst, false), GATE_UP, &[6, 8]).is_empty());
    }

    #[test]
    fn gate_and_up_by_input_are_parts_of_the_columns() {
        let of = |order| halves(&experts(order, true), GATE_UP, &[2, 8, 6]);
        let shape = vec![2, 3, 8];
        let up = (shape.clone(), vec![[3, 3, 1, 6], [51, 3, 1, 6]]);
        assert_eq!(of(RowOrder::GateFirst)[1], (UP.to_owned(), up));
        let up = (shape, vec![[1, 3, 2, 6], [49, 3, 2, 6]]);
        assert_eq!(of(RowOrder::InTurn)[1], (UP.to_owned(), up));
        // In a module with a suffix they are by output.
        let by_output = halves(
            &experts(RowOrder::GateFirst, true),
            &format!("{GATE_UP}.weight"),
            &[2, 6, 8],
        );
        assert_eq!(by_output[0].1.0, [2, 3, 8]);
    }

    #[test]
    fn biases_are_split_as_rows_are() {
        let of = |order| {
            let name = format!("{GATE_UP}_bias");
            halves(&experts(order, true), &name, &[2, 6])
        };
        let name = UP.replace("weight", "bias");
        let up = (vec![2, 3], vec![[1, 2, 6, 2]]);
        assert_eq!(of(RowOrder::InTurn)[1], (name.clone(), up));
        let up = (vec![2, 3], vec![[3, 2, 6, 1]]);
        assert_eq!(of(RowOrder::GateFirst)[1], (name, up));
    }

    #[test]
    fn a_missing_expert_is_an_error() {
        let tensor = tensor(&[4, 8]);
        let tensors = BTreeMap::from([(0, &tensor), (2, &tensor)]);
        assert!(stacked("s".to_owned(), &tensors).is_err());
        let tensors = BTreeMap::from([(0, &tensor), (1, &tensor)]);
        let expected = (vec![2, 4, 8], vec![[0, 4, 8, 1]; 2]);
        assert_eq!(facts(&stacked("s".to_owned(), &tensors).unwrap()), expected);
    }
}
