//! What single shapes and contents show.

use super::super::work::Work;
use super::*;
use crate::kernels::floats::FloatsMut;
use crate::kernels::{Pairing, RopeTable};

const BF16: CacheFormat = CacheFormat::Float(Float::Bf16);

fn plans(case: &Case, check: impl Fn(&Attention<'_>, &Plan)) {
    let step = case.step();
    for segment in &case.segments {
        let job = Attention::new(&step, segment);
        check(&job, &Plan::new(&job));
    }
}

#[test]
fn a_long_context_is_cut_and_merged() {
    let shape = Shape {
        segments: vec![(5_000, 2), (20, 1)],
        group: 3,
        with_sinks: true,
        ..Shape::smallest()
    };
    let windowed = Shape {
        segments: vec![(5_000, 2)],
        float: Float::Bf16,
        format: BF16,
        reach: Reach::Window(4_100),
        key_dim: 256,
        value_dim: 256,
        ..shape.clone()
    };
    // The second token is the first of its chunk.
    let chunked = Shape {
        segments: vec![(4_999, 2)],
        reach: Reach::Chunk(5_000),
        ..windowed.clone()
    };
    for shape in [shape, windowed, chunked] {
        let case = shape.case();
        plans(&case, |job, plan| {
            assert_eq!(plan.n_cuts > 1, job.segment.start > 4_000);
        });
        case.check();
    }
}

#[test]
fn pieces_cover_what_is_seen_exactly_once() {
    let steps = [
        (1, 9_000, Reach::All),
        (30, 2_000, Reach::Window(700)),
        (30, 2_000, Reach::Chunk(700)),
        (30, 2_000, Reach::Chunk(7)),
        (200, 0, Reach::All),
    ];
    for (n_tokens, start, reach) in steps {
        let shape = Shape {
            segments: vec![(start, n_tokens)],
            reach,
            group: 5,
            n_kv_heads: 2,
            key_dim: 6,
            value_dim: 6,
            ..Shape::smallest()
        };
        let end = start + n_tokens;
        plans(&shape.case(), |job, plan| {
            let mut seen = vec![0; 2 * job.rows() * end];
            for index in 0..plan.n_tiles() * plan.n_cuts {
                let piece = plan.piece(job, index / plan.n_cuts, index % plan.n_cuts);
                for row in piece.rows {
                    let visible = job.visible(row / 5);
                    for position in piece.positions.clone() {
                        let row = piece.kv_head * job.rows() + row;
                        seen[row * end + position] += usize::from(visible.contains(&position));
                    }
                }
            }
            for (index, count) in seen.into_iter().enumerate() {
                let token = index / end % job.rows() / 5;
                let expected = job.visible(token).contains(&(index % end));
                assert_eq!(count, usize::from(expected));
            }
        });
    }
}

#[test]
fn partial_results_take_what_is_predicted_and_no_more() {
    let segments = [
        (vec![(40_000, 1)], true),
        (vec![(9_000, 1); 5], true),
        (vec![(3_000, 16), (3_000, 12), (2_000, 4)], true),
        (vec![(2_000, 90)], true),
        (vec![(0, 40), (500, 1)], false),
        (vec![(1_000, 900)], false),
    ];
    for (segments, is_cut) in segments {
        let shape = Shape {
            n_kv_heads: 2,
            group: 4,
            segments,
            ..Shape::smallest()
        };
        let case = shape.case();
        let step = case.step();
        let works = Work::all(case.segments.iter().map(|s| Attention::new(&step, s)));
        let taken = works.last().map_or(0, Work::partials_end) * size_of::<f32>();
        assert_eq!(taken > 0, is_cut, "{:?}", shape.segments);
        let ends = shape.segments.iter().map(|(start, n)| start + n);
        let shape_of_all = AttentionShape {
            n_tokens: shape.segments.iter().map(|(_, n)| n).sum(),
            n_sequences: shape.segments.len(),
            n_positions: ends.max().unwrap_or(0),
            n_heads: shape.n_heads(),
            n_kv_heads: shape.n_kv_heads,
            head_dim: shape.key_dim,
        };
        let predicted = shape_of_all.scratch_bytes();
        assert!(taken <= predicted, "{:?}: {taken}", shape.segments);
        let is_even = shape.segments.windows(2).all(|pair| pair[0] == pair[1]);
        assert!(!is_cut || !is_even || predicted < 3 * taken, "{predicted}");
    }
}

/// A step's results are, bit by bit, those of each sequence alone, whether they
/// store their tokens before or while they attend.
#[test]
fn sequences_do_not_depend_on_each_other() {
    let shape = Shape {
        segments: vec![(300, 1), (0, 90), (5_000, 1), (70, 3)],
        n_kv_heads: 2,
        group: 2,
        float: Float::Bf16,
        format: BF16,
        ..Shape::smallest()
    };
    let together = shape.case();
    let pool = Pool::new(2);
    let all = together.run(Level::detect(), &pool);
    let step = together.step();
    let row_bytes = step.n_heads * step.value_dim() * shape.float.bytes();
    for segment in &together.segments {
        let mut out = vec![0; all.len()];
        // SAFETY: nobody else has the blocks.
        unsafe {
            let alone = std::slice::from_ref(segment);
            attention_at(Level::detect(), &pool, &step, alone, &mut out);
        }
        let rows =
            segment.first_row * row_bytes..(segment.first_row + segment.n_tokens) * row_bytes;
        assert!(out[rows.clone()] == all[rows], "from {}", segment.start);
    }
}

#[test]
fn heads_are_normalized_and_rotated_by_their_positions() {
    for norms_behind_rotation in [false, true] {
        turn_heads(norms_behind_rotation);
    }
}

fn turn_heads(norms_behind_rotation: bool) {
    let shape = Shape {
        segments: vec![(100, 2), (7, 40)],
        n_kv_heads: 2,
        group: 2,
        ..Shape::smallest()
    };
    let positions = [100, 101].into_iter().chain(7..47);
    let wavelengths: Vec<f32> = (0..32).map(|pair| 1.3_f32.powi(pair)).collect();
    let table = RopeTable::new(Pairing::Halves, &wavelengths, 1.0, positions);
    let weights = [values(8, 64), values(9, 64)];
    let norm = |weights| Norm::Rms {
        weight: Some(Floats::from(weights)),
        offset: 0.0,
        eps: 1e-5,
    };
    let case = shape.case();
    let turning = AttentionStep {
        query_norm: Some(norm(&weights[0][..])),
        key_norm: Some(norm(&weights[1][..])),
        norms_behind_rotation,
        table: Some(&table),
        ..case.step()
    };
    // The same rows, turned before.
    let mut rows = Vec::new();
    for (index, row) in case.rows.f64s().chunks(shape.width()).enumerate() {
        for (head, x) in row.chunks(64).enumerate() {
            let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let mut out = x.clone();
            if head < 6 {
                let norm = norm(&weights[usize::from(head >= 4)][..]);
                let (x, out) = (Floats::from(&x[..]), FloatsMut::from(&mut out[..]));
                let level = Level::detect();
                match norms_behind_rotation {
                    true => table.rotate_and_norm(level, index, &norm, x, out),
                    false => table.norm_and_rotate(level, index, &norm, x, 64, out),
                }
            }
            rows.extend(out);
        }
    }
    let turned = Packed::of(Float::F32, 0, &rows);
    let plain = AttentionStep {
        rows: turned.floats(),
        ..case.step()
    };
    let pool = Pool::new(1);
    let expected = case.run_step(Level::detect(), &pool, &plain);
    let keys = case.cached(&case.segments[1], &case.layout.layers()[1].keys);
    let found = case.run_step(Level::detect(), &pool, &turning);
    assert!(found == expected);
    assert!(case.cached(&case.segments[1], &case.layout.layers()[1].keys) == keys);
}

#[test]
fn what_a_query_does_not_see_cannot_reach_it() {
    // Which position none of the tokens sees, and which one the first five.
    let reaches = [(Reach::Window(70), 0, 55), (Reach::Chunk(25), 55, 110)];
    for (group, (reach, unseen, soon_unseen)) in [1, 3]
        .into_iter()
        .flat_map(|group| reaches.map(|reach| (group, reach)))
    {
        let shape = Shape {
            segments: vec![(120, 9)],
            group,
            reach,
            ..Shape::smallest()
        };
        // The last one is seen by the last token alone.
        let poisoned = [unseen, soon_unseen, 128];
        let poison = |is_key: bool, position: usize, column: usize| match position {
            position if poisoned.contains(&position) => {
                Some(if is_key { f32::NAN } else { f32::INFINITY })
            }
            125 if !is_key && column == 0 => Some(f32::INFINITY),
            _ => None,
        };
        let case = shape.case_of(&poison);
        for level in Level::available() {
            let found = unpacked(Float::F32, &case.run(level, &Pool::new(1)));
            for (row, found) in found.chunks(64).enumerate() {
                match row / group {
                    // Token 5 is the first that does not see what the others saw.
                    0..5 | 8 => assert!(found.iter().all(|x| x.is_nan()), "{level:?} {row}"),
                    _ => {
                        assert_eq!(found[0], f64::INFINITY, "{level:?} {row}");
                        assert!(found[1..].iter().all(|x| x.is_finite()), "{level:?} {row}");
                    }
                }
            }
        }
    }
}

/// Keys whose first elements are minus infinity where `is_hidden`, and queries of 1.
fn with_hidden(is_hidden: impl Fn(usize) -> bool) -> Case {
    let shape = Shape {
        segments: vec![(200, 1)],
        ..Shape::smallest()
    };
    let mut case = shape.case_of(&|is_key, position, column| match (is_key, column) {
        (true, 0) if is_hidden(position) => Some(f32::NEG_INFINITY),
        (true, _) => Some(0.0),
        _ => None,
    });
    let mut rows: Vec<f32> = case.rows.f64s().iter().map(|x| *x as f32).collect();
    rows[..64].fill(1.0);
    case.rows = Packed::of(Float::F32, 0, &rows);
    case
}

#[test]
fn a_score_of_minus_infinity_weighs_nothing() {
    // The first tiles, and then one score that is 0.
    let case = with_hidden(|position| position < 200);
    for level in Level::available() {
        let found = unpacked(Float::F32, &case.run(level, &Pool::new(1)));
        assert_eq!(found, case.rows.f64s()[128..]);
    }
    let case = with_hidden(|_| true);
    for level in Level::available() {
        let found = unpacked(Float::F32, &case.run(level, &Pool::new(1)));
        assert!(found.into_iter().all(f64::is_nan), "0 / 0");
    }
}

#[test]
fn subnormal_and_large_results_are_rounded_as_usual() {
    let exact = |column: usize| 1.1 * 2_f32.powi(4 * column as i32 - 149);
    for float in FLOATS {
        let shape = Shape {
            float,
            ..Shape::smallest()
        };
        let case = shape.case_of(&|is_key, _, column| (!is_key).then_some(exact(column)));
        for level in Level::available() {
            let found = unpacked(float, &case.run(level, &Pool::new(1)));
            assert_eq!(found, case.rows.f64s()[128..], "{level:?}");
        }
    }
}

/// Bit by bit the same as with all queries in front of all keys and values.
#[test]
fn rows_may_have_one_head_after_the_other() {
    let shape = Shape {
        segments: vec![(100, 2), (7, 40)],
        n_kv_heads: 3,
        group: 2,
        key_dim: 16,
        value_dim: 10,
        ..Shape::smallest()
    };
    let expected = shape.case().run(Level::detect(), &Pool::new(2));
    let case = shape.case();
    let by_kind: Vec<f32> = case.rows.f64s().iter().map(|x| *x as f32).collect();
    let mut by_head = Vec::new();
    for row in by_kind.chunks(shape.width()) {
        let (queries, rest) = row.split_at(shape.n_heads() * 16);
        let (keys, values) = rest.split_at(shape.n_kv_heads * 16);
        for head in 0..shape.n_kv_heads {
            by_head.extend(&queries[head * 32..(head + 1) * 32]);
            by_head.extend(&keys[head * 16..(head + 1) * 16]);
            by_head.extend(&values[head * 10..(head + 1) * 10]);
        }
    }
    let step = AttentionStep {
        rows: Floats::from(&by_head[..]),
        rows_by_head: true,
        ..case.step()
    };
    assert!(case.run_step(Level::detect(), &Pool::new(2), &step) == expected);
}

/// As if each query had been multiplied before.
#[test]
fn queries_are_scaled_by_their_positions() {
    let scale = PositionScale {
        beta: 0.5,
        length: 16.0,
        offset: 0,
    };
    assert_eq!(scale.at(15), 1.0);
    assert_eq!(scale.at(47), 1.0 + 0.5 * 3_f32.ln());
    let from_one = PositionScale { offset: 1, ..scale };
    assert_eq!(from_one.at(14), 1.0);
    assert_eq!(from_one.at(15), scale.at(16));
    let shape = Shape {
        segments: vec![(14, 4), (100, 1)],
        group: 2,
        ..Shape::smallest()
    };
    let case = shape.case();
    let step = AttentionStep {
        position_scale: Some(scale),
        ..case.step()
    };
    let found = case.run_step(Level::detect(), &Pool::new(2), &step);
    let mut rows: Vec<f32> = case.rows.f64s().iter().map(|x| *x as f32).collect();
    let positions = [14, 15, 16, 17, 100];
    for (row, position) in rows.chunks_mut(shape.width()).zip(positions) {
        let queries = &mut row[..shape.n_heads() * shape.key_dim];
        queries
            .iter_mut()
            .for_each(|query| *query *= scale.at(position));
    }
    let step = AttentionStep {
        rows: Floats::from(&rows[..]),
        ..case.step()
    };
    let expected = case.run_step(Level::detect(), &Pool::new(2), &step);
    for (found, expected) in unpacked(Float::F32, &found)
        .iter()
        .zip(unpacked(Float::F32, &expected))
    {
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
}

#[test]
fn sequences_of_different_formats_are_computed_as_if_they_were_alike() {
    let affine = |bits| CacheFormat::Affine {
        bits,
        group_size: 32,
        float: Float::Bf16,
    };
    let of = |format| {
        let shape = Shape {
            segments: vec![(300, 1), (70, 40), (130, 2), (0, 70)],
            group: 2,
            float: Float::Bf16,
            format,
            ..Shape::smallest()
        };
        shape.case()
    };
    let formats = [BF16, affine(8), affine(4), CacheFormat::Float(Float::F32)];
    let (level, pool) = (Level::detect(), Pool::new(2));
    let mut mixed = of(BF16);
    let segments = formats.into_iter().enumerate();
    mixed.segments = segments
        .map(|(index, format)| of(format).segments.swap_remove(index))
        .collect();
    let found = mixed.run(level, &pool);
    let row_bytes = found.len() / 113;
    for (segment, format) in mixed.segments.iter().zip(formats) {
        let expected = of(format).run(level, &pool);
        let first = segment.first_row * row_bytes;
        let rows = first..first + segment.n_tokens * row_bytes;
        assert!(found[rows.clone()] == expected[rows], "{format:?}");
    }
}

/// As if the keys had been projected twice.
#[test]
fn keys_may_be_values_as_well() {
    let shape = Shape {
        segments: vec![(5, 3), (0, 40), (100, 1)],
        group: 2,
        key_dim: 16,
        value_dim: 16,
        ..Shape::smallest()
    };
    let case = shape.case();
    let ones = [1.0; 16];
    let norm = Norm::Rms {
        weight: None,
        offset: 0.0,
        eps: 1e-5,
    };
    let weighted = Norm::Rms {
        weight: Some(Floats::from(&ones[..])),
        offset: 0.0,
        eps: 1e-5,
    };
    let rows: Vec<f32> = case.rows.f64s().iter().map(|x| *x as f32).collect();
    let n_keys = shape.n_kv_heads * 16;
    let (mut twice, mut once) = (Vec::new(), Vec::new());
    for row in rows.chunks(shape.width()) {
        let queries_keys = &row[..shape.width() - n_keys];
        once.extend(queries_keys);
        twice.extend(queries_keys);
        twice.extend(&queries_keys[queries_keys.len() - n_keys..]);
    }
    let pool = Pool::new(2);
    let all = AttentionStep {
        rows: Floats::from(&twice[..]),
        value_norm: Some(weighted),
        key_norm: Some(weighted),
        ..case.step()
    };
    let expected = case.run_step(Level::detect(), &pool, &all);
    let without = AttentionStep {
        rows: Floats::from(&once[..]),
        contents: RowContents::WithoutValues,
        value_norm: Some(norm),
        ..all
    };
    assert!(case.run_step(Level::detect(), &pool, &without) == expected);
}

#[test]
fn queries_alone_see_what_was_stored_and_store_nothing() {
    let shape = Shape {
        segments: vec![(5, 3), (0, 40), (100, 1)],
        group: 2,
        ..Shape::smallest()
    };
    let case = shape.case();
    let pool = Pool::new(2);
    let expected = case.run(Level::detect(), &pool);
    let caches = |case: &Case| {
        let keys = &case.layout.layers()[1].keys;
        let of = |segment| case.cached(segment, keys);
        case.segments.iter().map(of).collect::<Vec<_>>()
    };
    let stored = caches(&case);
    let queries: Vec<f32> = case.rows.f64s().iter().map(|x| *x as f32).collect();
    let queries: Vec<f32> = queries
        .chunks(shape.width())
        .flat_map(|row| row[..shape.n_heads() * shape.key_dim].to_vec())
        .collect();
    let step = AttentionStep {
        rows: Floats::from(&queries[..]),
        contents: RowContents::Queries,
        ..case.step()
    };
    assert!(case.run_step(Level::detect(), &pool, &step) == expected);
    assert!(caches(&case) == stored);
}
