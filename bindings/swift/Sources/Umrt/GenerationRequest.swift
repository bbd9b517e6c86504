import CUmrt

/// What to generate, and how. The fields are those of `Context.generate`.
public struct GenerationRequest: Sendable {
    public var prompt: Prompt
    public var maxTokens: Int
    public var sampling: Sampling
    public var stop: [String]
    public var ignoresEnd: Bool
    public var sampler: Sampler?
    /// After which it ends with `.deadlineExceeded`; nil: it has all the time it needs.
    public var timeout: Duration?
    /// Where tokens are chosen; see `Context.generate`.
    public var samplingDevice: Model.Device
    /// What the text may be; nil: any.
    public var constraint: Constraint?
    var sequence = 0

    public init(
        _ prompt: Prompt,
        maxTokens: Int = 0,
        sampling: Sampling = .greedy,
        stop: [String] = [],
        ignoresEnd: Bool = false,
        sampler: Sampler? = nil,
        timeout: Duration? = nil,
        samplingDevice: Model.Device = .automatic,
        constraint: Constraint? = nil
    ) {
        self.prompt = prompt
        self.maxTokens = maxTokens
        self.sampling = sampling
        self.stop = stop
        self.ignoresEnd = ignoresEnd
        self.sampler = sampler
        self.timeout = timeout
        self.samplingDevice = samplingDevice
        self.constraint = constraint
    }

    init(
        _ prompt: Prompt, maxTokens: Int, sampling: Sampling, stop: [String],
        sequence: Int, ignoresEnd: Bool, sampler: Sampler?, timeout: Duration?,
        samplingDevice: Model.Device, constraint: Constraint?
    ) {
        self.init(
            prompt, maxTokens: maxTokens, sampling: sampling, stop: stop,
            ignoresEnd: ignoresEnd, sampler: sampler, timeout: timeout,
            samplingDevice: samplingDevice, constraint: constraint)
        self.sequence = sequence
    }

    /// Generates on this thread; `receive` gets each piece of text.
    func run(
        in context: Handle, _ cancel: Cancel, _ receive: @escaping (String) -> Void
    ) throws -> GenerationResult {
        var result = umrt_generate_result.initialized
        try withParams { params in
            try check(generate(&params, in: context, cancel, receive, &result))
        }
        return GenerationResult(result)
    }

    /// Calls `body` with the request as the C API takes it.
    func withParams(_ body: (inout umrt_generate_params) throws -> Void) throws {
        var params = umrt_generate_params.initialized
        params.max_tokens = try count("maxTokens", maxTokens)
        params.seq = Int32(clamping: sequence)
        params.flags = ignoresEnd ? UInt32(UMRT_GENERATE_IGNORE_END) : 0
        params.deadline_ms = try milliseconds("timeout", timeout)
        params.sampling_device = samplingDevice.rawValue
        var sampling = try sampling.native()
        let stop = try stop.map { try cText("a stop string", $0) }
        try withUnsafePointer(to: &sampling) { sampling in
            params.sampling = sampling
            try withCTexts(stop) { texts, n in
                params.stop = texts
                params.n_stop = n
                try withPrompt(&params) { params in
                    try withSampler(&params) { params in
                        try withConstraint(&params, body)
                    }
                }
            }
        }
    }

    private func generate(
        _ params: inout umrt_generate_params, in context: Handle, _ cancel: Cancel,
        _ receive: @escaping (String) -> Void, _ result: inout umrt_generate_result
    ) -> umrt_status {
        let callback: umrt_text_fn = { start, length, _, userdata in
            let receive = userdata!.assumingMemoryBound(to: ((String) -> Void).self).pointee
            receive(text(at: start, length: length))
            return 0
        }
        return withUnsafePointer(to: receive) { receive in
            context.use { context in
                cancel.use { cancel in
                    umrt_generate(
                        context, &params, callback, UnsafeMutableRawPointer(mutating: receive),
                        cancel, &result)
                }
            }
        }
    }

    private func withPrompt(
        _ params: inout umrt_generate_params, _ body: (inout umrt_generate_params) throws -> Void
    ) throws {
        switch prompt {
        case .text(let text):
            try cText("the prompt", text).withCString {
                params.prompt = $0
                try body(&params)
            }
        case .chat(let chat):
            try cText("the chat", chat.json).withCString {
                params.chat = $0
                try body(&params)
            }
        case .tokens(let tokens):
            try tokens.withUnsafeBufferPointer {
                params.tokens = $0.baseAddress
                params.n_tokens = $0.count
                try body(&params)
            }
        }
    }

    private func withSampler(
        _ params: inout umrt_generate_params, _ body: (inout umrt_generate_params) throws -> Void
    ) throws {
        guard let sampler else {
            return try body(&params)
        }
        try sampler.handle.use {
            params.sampler = $0
            try body(&params)
        }
    }

    private func withConstraint(
        _ params: inout umrt_generate_params, _ body: (inout umrt_generate_params) throws -> Void
    ) throws {
        guard let constraint else {
            return try body(&params)
        }
        try constraint.handle.use {
            params.constraint = $0
            try body(&params)
        }
    }
}
