//! What LoRA and DoRA adapters add to projections: `scale * B (A x)`, and with gains the
//! change of the product's own outputs. Our kernels do all updates of a node's columns in
//! one node behind it.

use std::ops::Range;
use std::sync::Arc;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::gains::{Gains, GainsInput};
use super::inputs::{Input, Inputs, float_of};
use super::norms::Norm;
use super::ops::Ops;
use super::primitive::kernel;
use super::projections::Projected;
use crate::error::Result;
use crate::kernels::{self, Factor, FloatsMut, Pool};

/// A low-rank update of some columns of what was projected.
#[derive(Clone)]
pub struct LowRank {
    /// `[rank, inputs]`, or `[inputs, rank]` if `by_input`
    pub down: Array,
    /// `[outputs, rank]`, or `[rank, outputs]` if `by_input`
    pub up: Array,
    pub by_input: bool,
    pub first_column: usize,
    pub scale: f32,
    pub gains: Option<Gains>,
}

impl LowRank {
    pub fn rank(&self) -> usize {
        self.down.dim(usize::from(self.by_input)) as usize
    }

    pub fn outputs(&self) -> usize {
        self.up.dim(usize::from(self.by_input)) as usize
    }

    pub fn inputs(&self) -> usize {
        self.down.dim(usize::from(!self.by_input)) as usize
    }

    pub(super) fn columns(&self) -> Range<usize> {
        self.first_column..self.first_column + self.outputs()
    }
}

impl Ops {
    /// What was projected from the perhaps normalized rows, and its updates.
    pub fn adapt(
        &self,
        projected: Projected,
        x: &Array,
        norm: Option<Norm<'_>>,
        updates: &[LowRank],
    ) -> Result<Projected> {
        if updates.is_empty() {
            return Ok(projected);
        }
        match projected {
            Projected::Joined(y) => {
                let pool = self.pool().expect("our kernels joined them");
                self.kernel_adapt(pool, &y, x, norm, updates)
                    .map(Projected::Joined)
            }
            Projected::Separate(parts) => {
                let x = self.stock_input(x, norm)?;
                self.stock_adapt(parts, &x, updates)
                    .map(Projected::Separate)
            }
        }
    }

    /// As `adapt`, for one projection.
    pub fn adapt_one(
        &self,
        y: Array,
        x: &Array,
        norm: Option<Norm<'_>>,
        updates: &[LowRank],
    ) -> Result<Array> {
        if updates.is_empty() {
            return Ok(y);
        }
        if let Some(pool) = self.pool() {
            return self.kernel_adapt(pool, &y, x, norm, updates);
        }
        let x = self.stock_input(x, norm)?;
        let mut parts = self.stock_adapt(vec![y], &x, updates)?;
        Ok(parts.remove(0))
    }

    fn kernel_adapt(
        &self,
        pool: &Arc<Pool>,
        y: &Array,
        x: &Array,
        norm: Option<Norm<'_>>,
        updates: &[LowRank],
    ) -> Result<Array> {
        let mut inputs = Inputs::default();
        let (products, rows) = (inputs.floats(y)?, inputs.floats(x)?);
        let norm = norm.map(|norm| inputs.norm(norm)).transpose()?;
        let updates = updates.iter().map(|one| UpdateInput::new(&mut inputs, one));
        let updates: Vec<_> = updates.collect::<Result<_>>()?;
        let (pool, dtype, float) = (pool.clone(), y.dtype()?, float_of(y)?);
        let (columns, width) = (x.dim(1) as usize, y.dim(1) as usize);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = kernels::Rows {
                values: rows.of(inputs),
                columns,
                norm: norm.map(|norm| norm.of(inputs)),
            };
            let updates: Vec<_> = updates.iter().map(|one| one.of(inputs)).collect();
            let out = FloatsMut::new(float, out);
            kernels::add_low_rank(&pool, &rows, products.of(inputs), width, &updates, out);
        };
        kernel(self.stream(), inputs.as_slice(), y.shape(), dtype, body)
    }

    /// `x` is normalized already.
    fn stock_adapt(
        &self,
        mut parts: Vec<Array>,
        x: &Array,
        updates: &[LowRank],
    ) -> Result<Vec<Array>> {
        let products = parts.clone();
        for update in updates {
            let addend = self.stock_update(x, update)?;
            let mut first = 0;
            for (part, product) in parts.iter_mut().zip(&products) {
                let columns = first..first + part.dim(1) as usize;
                first = columns.end;
                if let Some(own) = self.within(&addend, &update.columns(), &columns)? {
                    let own = match &update.gains {
                        Some(gains) => self.gained(own, product, gains, update, &columns)?,
                        None => own,
                    };
                    let own = self.astype(&own, part.dtype()?)?;
                    *part = self.add(part, &own)?;
                }
            }
        }
        Ok(parts)
    }

    /// `scale * B (A x)`
    fn stock_update(&self, x: &Array, update: &LowRank) -> Result<Array> {
        let side = |factor: &Array| match update.by_input {
            true => Ok(factor.clone()),
            false => self.transpose(factor, &[1, 0]),
        };
        let inner = self.matmul(&self.astype(x, Dtype::F32)?, &side(&update.down)?)?;
        let inner = self.multiply(&inner, &scalar(update.scale)?)?;
        self.matmul(&inner, &side(&update.up)?)
    }

    /// Those of an update's columns that a part has, which has all of them or a
    /// part of a fused update.
    pub(super) fn within(
        &self,
        addend: &Array,
        update: &Range<usize>,
        part: &Range<usize>,
    ) -> Result<Option<Array>> {
        if update == part {
            return Ok(Some(addend.clone()));
        }
        let (begin, end) = (update.start.max(part.start), update.end.min(part.end));
        if begin >= end {
            return Ok(None);
        }
        let column = |column: usize| (column - update.start) as i32;
        let stop = [addend.dim(0), column(end)];
        self.slice(addend, &[0, column(begin)], &stop).map(Some)
    }
}

/// An update among a node's inputs.
struct UpdateInput {
    down: Input,
    up: Input,
    by_input: bool,
    rank: usize,
    outputs: usize,
    first_column: usize,
    scale: f32,
    gains: Option<GainsInput>,
}

impl UpdateInput {
    fn new<'a>(inputs: &mut Inputs<'a>, update: &'a LowRank) -> Result<UpdateInput> {
        Ok(UpdateInput {
            down: inputs.floats(&update.down)?,
            up: inputs.floats(&update.up)?,
            by_input: update.by_input,
            rank: update.rank(),
            outputs: update.outputs(),
            first_column: update.first_column,
            scale: update.scale,
            gains: update
                .gains
                .as_ref()
                .map(|gains| GainsInput::new(inputs, gains))
                .transpose()?,
        })
    }

    fn of<'a>(&self, inputs: &[&'a [u8]]) -> kernels::LowRank<'a> {
        let factor = |input: Input| Factor {
            values: input.of(inputs),
            by_input: self.by_input,
        };
        kernels::LowRank {
            down: factor(self.down),
            up: factor(self.up),
            rank: self.rank,
            outputs: self.outputs,
            first_column: self.first_column,
            scale: self.scale,
            gains: self.gains.map(|gains| gains.of(inputs)),
        }
    }
}
