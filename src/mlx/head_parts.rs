//! The parts of heads in rows: next to each other, through gates, as dimensions.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::inputs::{Input, Inputs, float_of};
use super::ops::{NULL, Ops};
use super::primitive::kernel;
use super::projections::Projected;
use crate::error::Result;
use crate::kernels::{
    self, Activation, FloatsMut, Gate, GatedNorm, GroupNorm, HeadParts, PartPlace,
};

/// What is said goes through gates, and perhaps a norm.
#[derive(Clone, Copy)]
pub struct GateLayer<'a> {
    pub gate: Gate,
    pub norm: Option<GroupNormLayer<'a>>,
    pub n_heads: usize,
    /// The heads' gates in their rows.
    pub place: PartPlace,
}

/// See [`GroupNorm`].
#[derive(Clone, Copy)]
pub struct GroupNormLayer<'a> {
    pub weight: &'a Array,
    pub eps: f32,
    pub n_groups: usize,
    pub is_before_gate: bool,
}

/// A norm of groups among the inputs of a node.
#[derive(Clone, Copy)]
pub(super) struct GroupNormInput {
    weight: Input,
    eps: f32,
    n_groups: usize,
    is_before_gate: bool,
}

impl GroupNormInput {
    pub fn new<'a>(inputs: &mut Inputs<'a>, norm: &GroupNormLayer<'a>) -> Result<GroupNormInput> {
        Ok(GroupNormInput {
            weight: inputs.floats(norm.weight)?,
            eps: norm.eps,
            n_groups: norm.n_groups,
            is_before_gate: norm.is_before_gate,
        })
    }

    pub fn of<'a>(&self, inputs: &[&'a [u8]]) -> GroupNorm<'a> {
        GroupNorm {
            weight: self.weight.of(inputs),
            eps: self.eps,
            n_groups: self.n_groups,
            is_before_gate: self.is_before_gate,
        }
    }
}

impl Ops {
    /// All that was projected next to each other.
    pub fn joined(&self, projected: &Projected) -> Result<Array> {
        match projected {
            Projected::Joined(rows) => Ok(rows.clone()),
            Projected::Separate(parts) => match &parts[..] {
                [one] => Ok(one.clone()),
                parts => self.concatenate(parts, 1),
            },
        }
    }

    /// Queries, keys and values without the gates that were projected behind them, and
    /// the rows that have these, where the layer says.
    pub fn apart_from_last_gates(
        &self,
        projected: Projected,
        (n_heads, n_kv_heads): (usize, usize),
        head_dim: usize,
    ) -> Result<(Projected, Array, GateLayer<'static>)> {
        let n_others = n_heads + 2 * n_kv_heads;
        let (without, rows, first) = match projected {
            Projected::Joined(rows) => {
                let others = PartPlace::in_turn(rows.dim(1) as usize, 0, head_dim);
                let without = self.regroup(&rows, &[(others, n_others)])?;
                (Projected::Joined(without), rows, n_others * head_dim)
            }
            Projected::Separate(mut parts) => {
                let gates = parts.pop().expect("gates behind the values");
                (Projected::Separate(parts), gates, 0)
            }
        };
        let gates = GateLayer {
            gate: Gate::Times(Activation::Sigmoid),
            norm: None,
            n_heads,
            place: PartPlace::in_turn(rows.dim(1) as usize, first, head_dim),
        };
        Ok((without, rows, gates))
    }

    /// The same of gates that each head has behind its query.
    pub fn apart_from_gates(
        &self,
        projected: Projected,
        (n_heads, n_kv_heads): (usize, usize),
        head_dim: usize,
    ) -> Result<(Projected, Array, GateLayer<'static>)> {
        let place = |rows: &Array, first| PartPlace {
            columns: rows.dim(1) as usize,
            first,
            stride: 2 * head_dim,
            length: head_dim,
        };
        let (without, rows) = match projected {
            Projected::Joined(rows) => {
                let others =
                    PartPlace::in_turn(rows.dim(1) as usize, 2 * n_heads * head_dim, head_dim);
                let kinds = [(place(&rows, 0), n_heads), (others, 2 * n_kv_heads)];
                (Projected::Joined(self.regroup(&rows, &kinds)?), rows)
            }
            Projected::Separate(mut parts) => {
                let queries = self.regroup(&parts[0], &[(place(&parts[0], 0), n_heads)])?;
                let rows = std::mem::replace(&mut parts[0], queries);
                (Projected::Separate(parts), rows)
            }
        };
        let gates = GateLayer {
            gate: Gate::Times(Activation::Sigmoid),
            norm: None,
            n_heads,
            place: place(&rows, head_dim),
        };
        Ok((without, rows, gates))
    }

    /// Some parts of each row's heads, those of the first kind first.
    pub fn regroup(&self, rows: &Array, kinds: &[(PartPlace, usize)]) -> Result<Array> {
        let Some(pool) = self.pool() else {
            let n = rows.dim(0);
            let flat = |(place, n_heads): &(PartPlace, usize)| {
                let columns = (place.length * n_heads) as i32;
                self.reshape(&self.head_parts(rows, place, *n_heads)?, &[n, columns])
            };
            let parts: Vec<_> = kinds.iter().map(flat).collect::<Result<_>>()?;
            return self.concatenate(&parts, 1);
        };
        let (pool, kinds) = (pool.clone(), kinds.to_vec());
        let columns: usize = kinds.iter().map(|(place, n)| place.length * n).sum();
        let (dtype, float) = (rows.dtype()?, float_of(rows)?);
        let mut inputs = Inputs::default();
        let rows_input = inputs.floats(rows)?;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = rows_input.of(inputs);
            let parts = kinds.iter();
            let parts: Vec<_> = parts
                .map(|(place, n)| (HeadParts::new(rows, *place), *n))
                .collect();
            kernels::regroup(&pool, &parts, FloatsMut::new(float, out));
        };
        let made = [rows.dim(0), columns as i32];
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }

    /// What heads said, `[n, n_heads * length]`, through their gates in `rows`, whose type
    /// the result has.
    pub fn gate_heads(&self, said: &Array, rows: &Array, layer: &GateLayer<'_>) -> Result<Array> {
        let (dtype, float) = (rows.dtype()?, float_of(rows)?);
        let Some(pool) = self.pool() else {
            let shape = [said.dim(0), layer.n_heads as i32, layer.place.length as i32];
            let said = self.reshape(&self.astype(said, Dtype::F32)?, &shape)?;
            let gates = self.head_parts(rows, &layer.place, layer.n_heads)?;
            let gates = self.astype(&gates, Dtype::F32)?;
            let gated = self.stock_gate_heads(&said, &gates, layer)?;
            return self.astype(&gated, dtype);
        };
        let pool = pool.clone();
        let mut inputs = Inputs::default();
        let (said_input, gates) = (inputs.floats(said)?, inputs.floats(rows)?);
        let norm = layer.norm.as_ref();
        let norm = norm.map(|norm| GroupNormInput::new(&mut inputs, norm));
        let norm = norm.transpose()?;
        let GateLayer {
            gate,
            n_heads,
            place,
            ..
        } = *layer;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let gated = GatedNorm {
                gate,
                norm: norm.map(|norm| norm.of(inputs)),
            };
            let gates = HeadParts::new(gates.of(inputs), place);
            let out = FloatsMut::new(float, out);
            gated.rows(&pool, said_input.of(inputs), (&gates, n_heads), out);
        };
        kernel(self.stream(), inputs.as_slice(), said.shape(), dtype, body)
    }

    /// `[n, n_heads, length]` in float32, both, to `[n, n_heads * length]`.
    pub(super) fn stock_gate_heads(
        &self,
        said: &Array,
        gates: &Array,
        layer: &GateLayer<'_>,
    ) -> Result<Array> {
        let gated = match &layer.norm {
            None => self.stock_gate(layer.gate, gates, said)?,
            Some(norm) if norm.is_before_gate => {
                let normed = self.stock_group_norm(said, norm)?;
                self.stock_gate(layer.gate, gates, &normed)?
            }
            Some(norm) => {
                let gated = self.stock_gate(layer.gate, gates, said)?;
                self.stock_group_norm(&gated, norm)?
            }
        };
        self.reshape(&gated, &[said.dim(0), said.dim(1) * said.dim(2)])
    }

    fn stock_group_norm(&self, x: &Array, norm: &GroupNormLayer<'_>) -> Result<Array> {
        let [n, n_heads, length] = [x.dim(0), x.dim(1), x.dim(2)];
        let n_groups = norm.n_groups as i32;
        let grouped = self.reshape(x, &[n, n_heads, n_groups, length / n_groups])?;
        let stream = self.stream().raw();
        let normed = Array::build(|out| {
            // SAFETY: live handles or null; mlx-c keeps references of its own.
            unsafe { sys::mlx_fast_rms_norm(out, grouped.raw(), NULL, norm.eps, stream) }
        })?;
        let weight = self.astype(norm.weight, Dtype::F32)?;
        self.multiply(&self.reshape(&normed, &[n, n_heads, length])?, &weight)
    }

    /// The parts of heads, `[n, n_heads, length]`.
    pub(super) fn head_parts(
        &self,
        rows: &Array,
        place: &PartPlace,
        n_heads: usize,
    ) -> Result<Array> {
        let n = rows.dim(0);
        let shape = [n, n_heads as i32, place.length as i32];
        let own = match place.is_in_turn() {
            true => {
                let first = place.first as i32;
                self.slice(rows, &[0, first], &[n, first + shape[1] * shape[2]])?
            }
            false => self.take_columns(rows, &place.columns_of(n_heads))?,
        };
        self.reshape(&own, &shape)
    }

    fn take_columns(&self, rows: &Array, columns: &[i32]) -> Result<Array> {
        let indices = Array::from_i32(columns, &[columns.len() as i32])?;
        Array::build(|out| {
            let stream = self.stream().raw();
            // SAFETY: as above.
            unsafe { sys::mlx_take_axis(out, rows.raw(), indices.raw(), 1, stream) }
        })
    }

    /// `ln(1 + e^x)`
    pub(super) fn softplus(&self, x: &Array) -> Result<Array> {
        self.binary(sys::mlx_logaddexp, x, &scalar(0.0)?)
    }
}
