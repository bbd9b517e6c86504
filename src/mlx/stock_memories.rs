//! Memories of heads by MLX's operations, one sequence at a time and token by token, as
//! the definitions in `kernels/recurrent` have it.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::gated_delta::DeltaLayer;
use super::ops::Ops;
use super::selective_scan::ScanLayer;
use crate::error::Result;
use crate::kernels::PartPlace;

/// Tokens whose operations are one graph.
const TOKENS_PER_GRAPH: i32 = 32;

/// The axis of a memory's rows, in `[1, groups, heads, rows, columns]`.
const ROWS: i32 = 3;

/// What tokens do, each of the arrays by token, `[n, groups, heads or 1, rows or 1,
/// columns or 1]`.
struct Changes {
    decays: Array,
    keys: Array,
    queries: Array,
    values: Array,
}

impl Changes {
    fn of(&self, ops: &Ops, token: i32) -> Result<Changes> {
        let own = |all: &Array| {
            let (mut start, mut stop) = ([0; 5], [0; 5]);
            stop.copy_from_slice(all.shape());
            (start[0], stop[0]) = (token, token + 1);
            ops.slice(all, &start, &stop)
        };
        Ok(Changes {
            decays: own(&self.decays)?,
            keys: own(&self.keys)?,
            queries: own(&self.queries)?,
            values: own(&self.values)?,
        })
    }
}

impl Ops {
    /// What heads say of a sequence's rows, `[n, n_value_heads * value_dim]`, and the
    /// memories behind them, `[n_value_heads, key_dim, value_dim]`.
    pub fn recall(
        &self,
        (mixed, rows): (&Array, &Array),
        delta: &DeltaLayer<'_>,
        memory: &Array,
    ) -> Result<(Array, Array)> {
        let shape = &delta.shape;
        let sizes = [
            shape.n_key_heads,
            shape.values_per_key,
            shape.key_dim,
            shape.value_dim,
        ];
        let [n_keys, per_key, key_dim, value_dim] = sizes.map(|size| size as i32);
        let n = rows.dim(0);
        let part = |rows, place: &PartPlace, shape: &[i32]| {
            let wide = self.astype(&self.head_parts(rows, place, sizes[0])?, Dtype::F32)?;
            self.reshape(&wide, shape)
        };
        let [queries, keys, values] = shape.mixed_places();
        let of_keys = [n, n_keys, 1, key_dim, 1];
        let of_heads = [n, n_keys, per_key, 1, 1];
        let queries = self.unit(&part(mixed, &queries, &of_keys)?)?;
        let alphas = part(rows, &delta.alphas, &of_heads)?;
        let betas = self.sigmoid(&part(rows, &delta.betas, &of_heads)?)?;
        let changes = Changes {
            decays: self.decays(&alphas, delta, [1, n_keys, per_key, 1, 1])?,
            keys: self.unit(&part(mixed, &keys, &of_keys)?)?,
            queries: self.multiply(&queries, &scalar((key_dim as f32).powf(-0.5))?)?,
            values: part(mixed, &values, &[n, n_keys, per_key, 1, value_dim])?,
        };
        let betas = match shape.doubles_beta {
            true => self.multiply(&betas, &scalar(2.0)?)?,
            false => betas,
        };
        let memory = self.reshape(memory, &[1, n_keys, per_key, key_dim, value_dim])?;
        let (said, memory) = self.go_through(memory, &changes, &|memory, change, token| {
            let recalled = self.read(memory, &change.keys)?;
            let missing = self.binary(sys::mlx_subtract, &change.values, &recalled)?;
            let last = [token + 1, n_keys, per_key, 1, 1];
            self.multiply(&missing, &self.slice(&betas, &[token, 0, 0, 0, 0], &last)?)
        })?;
        let of_values = [n, n_keys * per_key, value_dim];
        let gates = part(rows, &delta.gate.place, &of_values)?;
        let said = self.reshape(&said, &of_values)?;
        let said = self.stock_gate_heads(&said, &gates, &delta.gate)?;
        let memory = self.reshape(&memory, &[n_keys * per_key, key_dim, value_dim])?;
        Ok((self.astype(&said, rows.dtype()?)?, memory))
    }

    /// What heads say of a sequence's rows, `[n, n_heads * head_dim]` in float32, and the
    /// memories behind them, `[n_heads, state_dim, head_dim]`.
    pub fn scan(
        &self,
        (mixed, rows): (&Array, &Array),
        scan: &ScanLayer<'_>,
        memory: &Array,
    ) -> Result<(Array, Array)> {
        let shape = &scan.shape;
        let sizes = [
            shape.n_groups,
            shape.heads_per_group,
            shape.state_dim,
            shape.head_dim,
        ];
        let [n_groups, per_group, state_dim, head_dim] = sizes.map(|size| size as i32);
        let n = rows.dim(0);
        let part = |rows, place: &PartPlace, n_heads, shape: [i32; 5]| {
            let wide = self.astype(&self.head_parts(rows, place, n_heads)?, Dtype::F32)?;
            self.reshape(&wide, &shape)
        };
        let [x, keys, queries] = shape.mixed_places();
        let of_groups = [n, n_groups, 1, state_dim, 1];
        let by_head = [1, n_groups, per_group, 1, 1];
        let x = part(
            mixed,
            &x,
            shape.n_heads(),
            [n, n_groups, per_group, 1, head_dim],
        )?;
        let times = part(
            rows,
            &scan.times,
            shape.n_heads(),
            [n, n_groups, per_group, 1, 1],
        )?;
        let times = self.times(&times, scan, by_head)?;
        let rates = self.exp(&self.wide(scan.rates, &by_head)?)?;
        let faded = self.multiply(&rates, &times)?;
        let changes = Changes {
            decays: self.exp(&self.multiply(&faded, &scalar(-1.0)?)?)?,
            keys: part(mixed, &keys, sizes[0], of_groups)?,
            queries: part(mixed, &queries, sizes[0], of_groups)?,
            values: self.multiply(&x, &times)?,
        };
        let memory = self.reshape(memory, &[1, n_groups, per_group, state_dim, head_dim])?;
        let (said, memory) =
            self.go_through(memory, &changes, &|_, change, _| Ok(change.values.clone()))?;
        let skipped = self.multiply(&x, &self.wide(scan.skips, &by_head)?)?;
        let said = self.reshape(&self.add(&said, &skipped)?, &[n, shape.columns() as i32])?;
        let memory = self.reshape(&memory, &[n_groups * per_group, state_dim, head_dim])?;
        Ok((said, memory))
    }

    /// Takes tokens through memories `[1, groups, heads, rows, columns]`: they fade, and
    /// what `value` makes of the faded ones is added by key. What they say then, by token.
    fn go_through(
        &self,
        mut memory: Array,
        changes: &Changes,
        value: &dyn Fn(&Array, &Changes, i32) -> Result<Array>,
    ) -> Result<(Array, Array)> {
        let n = changes.decays.dim(0);
        let mut said = Vec::with_capacity(n as usize);
        for token in 0..n {
            let change = changes.of(self, token)?;
            memory = self.multiply(&memory, &change.decays)?;
            let value = value(&memory, &change, token)?;
            memory = self.add(&memory, &self.multiply(&change.keys, &value)?)?;
            said.push(self.read(&memory, &change.queries)?);
            if (token + 1) % TOKENS_PER_GRAPH == 0 {
                self.stream().eval(said.iter().chain([&memory]))?;
            }
        }
        Ok((self.concatenate(&said, 0)?, memory))
    }

    /// Rows of memories times their factors, summed up.
    fn read(&self, memory: &Array, factors: &Array) -> Result<Array> {
        self.sum_keeping(&self.multiply(memory, factors)?, ROWS)
    }

    /// `exp(-exp(rate) * softplus(alpha + bias))`
    fn decays(&self, alphas: &Array, delta: &DeltaLayer<'_>, shape: [i32; 5]) -> Result<Array> {
        let rates = self.exp(&self.wide(delta.rates, &shape)?)?;
        let forces = self.softplus(&self.add(alphas, &self.wide(delta.biases, &shape)?)?)?;
        let faded = self.multiply(&rates, &forces)?;
        self.exp(&self.multiply(&faded, &scalar(-1.0)?)?)
    }

    fn times(&self, times: &Array, scan: &ScanLayer<'_>, shape: [i32; 5]) -> Result<Array> {
        let times = self.multiply(times, &scalar(scan.time_factor)?)?;
        let times = self.add(&times, &self.wide(scan.time_biases, &shape)?)?;
        let [least, most] = scan.time_limits;
        let times = self.binary(sys::mlx_maximum, &self.softplus(&times)?, &scalar(least)?)?;
        self.binary(sys::mlx_minimum, &times, &scalar(most)?)
    }

    /// Rows of memories, of length one.
    fn unit(&self, x: &Array) -> Result<Array> {
        let squares = self.sum_keeping(&self.multiply(x, x)?, ROWS)?;
        let factors = self.unary(sys::mlx_rsqrt, &self.add(&squares, &scalar(1e-6)?)?)?;
        self.multiply(x, &factors)
    }

    fn wide(&self, vector: &Array, shape: &[i32]) -> Result<Array> {
        self.reshape(&self.astype(vector, Dtype::F32)?, shape)
    }

    fn exp(&self, x: &Array) -> Result<Array> {
        self.unary(sys::mlx_exp, x)
    }

    fn sum_keeping(&self, x: &Array, axis: i32) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_sum_axis(out, x.raw(), axis, true, self.stream().raw()) }
        })
    }
}
