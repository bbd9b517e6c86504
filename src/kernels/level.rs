//! [`Level`]: the instructions that kernels may use, found out at run time.

use std::sync::OnceLock;

/// How to compute. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust: what every kernel means.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI, VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON, which all AArch64 processors have.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with products of bytes (FEAT_DotProd).
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Level {
    /// The best that this processor can do.
    pub fn detect() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| *Level::available().last().expect("scalar is always there"))
    }

    /// All that this processor can do, the simplest first.
    pub fn available() -> Vec<Level> {
        #[cfg_attr(
            not(any(target_arch = "x86_64", target_arch = "aarch64")),
            expect(unused_mut)
        )]
        let mut levels = vec![Level::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16");
            if avx2 {
                levels.push(Level::Avx2);
            }
            if avx2 && avx512 {
                levels.push(Level::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            levels.push(Level::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                levels.push(Level::NeonDot);
            }
        }
        levels
    }
}
