import CUmrt

/// How to quantize a checkpoint. 0 is the default of every number.
public struct Quantization: Hashable, Sendable {
    public var mode = Mode.affine
    /// 0: 4, and 8 with `.mxfp8`.
    public var bits = 0
    /// Weights that share a scale. 0: 64, 32 with `.mxfp4` and `.mxfp8`, 16 with `.nvfp4`.
    public var groupSize = 0
    /// Chooses the bits of affine weights.
    public var recipe = Recipe.none
    /// What stays floats: scales, biases, norms.
    public var floats = Floats.kept
    /// Replace a model at the target, once the new one is complete.
    public var replaces = false
    /// 0: as many as suit the machine.
    public var threadCount = 0
    /// Bytes of a file of weights at most, unless a tensor is larger. 0: 5 GiB.
    public var maximumShardBytes: UInt64 = 0

    public init() {}

    public enum Mode: UInt32, Sendable {
        /// Whole numbers of 2, 3, 4, 5, 6 or 8 bits, with a scale and a bias for each 32, 64
        /// or 128.
        case affine = 0
        /// Floats of 4 bits, with a power of two for each 32.
        case mxfp4 = 1
        /// Floats of 8 bits, with a power of two for each 32.
        case mxfp8 = 2
        /// Floats of 4 bits, with a float of 8 for each 16.
        case nvfp4 = 3
    }

    public enum Recipe: UInt32, Sendable {
        /// The same bits for all.
        case none = 0
        /// 2 bits, and 6 for values and the matrices behind the gate in some layers, and for
        /// the output.
        case mixed2And6 = 1
        /// Likewise with 3 and 4 bits.
        case mixed3And4 = 2
        /// Likewise with 3 and 6 bits.
        case mixed3And6 = 3
        /// Likewise with 4 and 6 bits.
        case mixed4And6 = 4
    }

    public enum Floats: UInt32, Sendable {
        /// As the checkpoint has them; as its config.json says under "torch_dtype", if it does.
        case kept = 0
        case float32 = 1
        case float16 = 2
        case bfloat16 = 3
    }

    func native() throws -> umrt_quantize_params {
        var params = umrt_quantize_params.initialized
        params.mode = mode.rawValue
        params.bits = try count("bits", bits)
        params.group_size = try count("groupSize", groupSize)
        params.recipe = recipe.rawValue
        params.dtype = floats.rawValue
        params.flags = replaces ? UInt32(UMRT_QUANTIZE_REPLACE) : 0
        params.n_threads = try count("threadCount", threadCount)
        params.max_shard_bytes = maximumShardBytes
        return params
    }
}

extension Model {
    /// Writes a checkpoint of floats as a quantized one, in MLX's formats. What fails or is
    /// cancelled leaves nothing at the target.
    ///
    /// - Parameters:
    ///   - source: A directory with config.json and safetensors files.
    ///   - target: The new directory, which is complete when it appears.
    ///   - progress: Hears of bytes of the source.
    /// - Throws: `UmrtError` with `.invalidArgument` (also if something is at the target),
    ///   `.notFound`, `.io`, `.format`, `.unsupported` (names what), `.outOfMemory` or
    ///   `.backend`; `CancellationError`.
    public static func quantize(
        _ source: String,
        to target: String,
        _ quantization: Quantization = Quantization(),
        progress: LoadProgress.Report? = nil
    ) async throws {
        let source = try cText("source", source)
        let target = try cText("target", target)
        try await Worker("umrt.quantize").run { cancel in
            var params = try quantization.native()
            try withProgress(progress) { report, userdata in
                params.progress = report
                params.progress_userdata = userdata
                try cancel.use {
                    params.cancel = $0
                    try check(umrt_model_quantize(source, target, &params))
                }
            }
        }
    }
}
