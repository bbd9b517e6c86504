import CUmrt

/// What a generation continues.
public enum Prompt: Hashable, Sendable, ExpressibleByStringInterpolation {
    /// Plain text. Special tokens spelled out in it are ordinary characters.
    case text(String)
    /// A conversation for the model's chat template.
    case chat(Chat)
    case tokens([Token])

    public init(stringLiteral text: String) {
        self = .text(text)
    }
}

/// Why a generation ended.
public enum StopReason: UInt32, Sendable {
    /// The model ended the text.
    case end = 1
    /// As many tokens were generated as were asked for.
    case maxTokens = 2
    /// A stop string was reached.
    case stopString = 3
    /// Nobody wanted more text.
    case reader = 4
    /// The sequence is full.
    case contextFull = 5
}

/// What a generation did.
public struct GenerationResult: Hashable, Sendable {
    public let stopReason: StopReason
    public let promptTokens: Int
    /// Tokens that were sampled, the one that ended the text included.
    public let tokens: Int
    /// From the first prompt token to the first logits.
    public let promptTime: Duration
    /// From there to the end.
    public let decodeTime: Duration

    init(_ result: umrt_generate_result) {
        guard let reason = StopReason(rawValue: result.stop_reason) else {
            preconditionFailure("umrt stopped for reason \(result.stop_reason)")
        }
        stopReason = reason
        promptTokens = Int(result.n_prompt_tokens)
        tokens = Int(result.n_tokens)
        promptTime = .nanoseconds(result.prompt_ns)
        decodeTime = .nanoseconds(result.decode_ns)
    }

    /// Speed of decoding in tokens per second. The first token belongs to the prompt's
    /// time.
    public var decodeRate: Double {
        rate(UInt64(max(tokens - 1, 0)), in: decodeTime)
    }
}

/// A whole generated text.
public struct Completion: Hashable, Sendable {
    public let text: String
    public let result: GenerationResult
}

extension Context {
    /// Appends a prompt to a sequence, samples token by token and gives text as it becomes
    /// certain, in whole characters:
    ///
    ///     for try await piece in context.generate("Once upon a time", maxTokens: 100) {
    ///         print(piece, terminator: "")
    ///     }
    ///
    /// It begins at once, behind the context's earlier calls, and does not wait for its
    /// reader. It stops when the reading task is cancelled, which ends the loop, and when
    /// the stream is let go. All finished tokens stay in the sequence; the token sampled
    /// last is not in it.
    ///
    /// - Parameters:
    ///   - maxTokens: 0: until the model ends the text or the sequence is full.
    ///   - sampling: How to choose tokens. Not used if there is a `sampler`.
    ///   - stop: Texts that end the generation; they are not part of the output.
    ///   - sequence: The sequence that the prompt and what follows are appended to.
    ///   - ignoresEnd: Go on behind the token that ends a text.
    ///   - sampler: Goes on with this sampler.
    ///   - timeout: After which it is stopped; nil: it has all the time it needs.
    ///   - samplingDevice: Where tokens are chosen. `.automatic`: on the GPU where the model
    ///     computes there, but for penalties; `.cpu`: always on the CPU; `.gpu`: on the GPU,
    ///     where penalties are `.unsupported`, as all is if the model computes on the CPU.
    ///     The tokens are the same: at temperature 0 exactly, above unless a draw is within
    ///     2e-6 of the probability that decides between two.
    ///   - constraint: What the text may be; nil: any. It is whole if the model ended it
    ///     (`.end`), else a beginning. The CPU chooses its tokens.
    ///   - onEnd: Hears what the generation did, on the context's thread, before the
    ///     stream ends; not if it failed or was cancelled.
    /// - Returns: A stream that throws `UmrtError` with `.invalidArgument`, `.unsupported` (see
    ///   `samplingDevice`), `.notFound` (no tokenizer or chat template), `.format` (they are
    ///   broken), `.noSpace` (the prompt does not fit), `.deadlineExceeded`, `.outOfMemory` or
    ///   `.backend`.
    public func generate(
        _ prompt: Prompt,
        maxTokens: Int = 0,
        sampling: Sampling = .greedy,
        stop: [String] = [],
        sequence: Int = 0,
        ignoresEnd: Bool = false,
        sampler: Sampler? = nil,
        timeout: Duration? = nil,
        samplingDevice: Model.Device = .automatic,
        constraint: Constraint? = nil,
        onEnd: (@Sendable (GenerationResult) -> Void)? = nil
    ) -> AsyncThrowingStream<String, any Error> {
        let request = GenerationRequest(
            prompt, maxTokens: maxTokens, sampling: sampling, stop: stop,
            sequence: sequence, ignoresEnd: ignoresEnd, sampler: sampler, timeout: timeout,
            samplingDevice: samplingDevice, constraint: constraint)
        let (stream, pieces) = AsyncThrowingStream<String, any Error>.makeStream()
        do {
            let cancel = try Cancel()
            pieces.onTermination = { termination in
                if case .cancelled = termination { cancel.trigger() }
            }
            worker.start {
                do {
                    let result = try request.run(in: self.handle, cancel) { pieces.yield($0) }
                    onEnd?(result)
                    pieces.finish()
                } catch {
                    pieces.finish(throwing: error)
                }
            }
        } catch {
            pieces.finish(throwing: error)
        }
        return stream
    }

    /// As `generate`, but returns the whole text when it has ended. Cancelling the task
    /// stops it.
    ///
    /// - Throws: What the stream of `generate` throws; `CancellationError`.
    public func complete(
        _ prompt: Prompt,
        maxTokens: Int = 0,
        sampling: Sampling = .greedy,
        stop: [String] = [],
        sequence: Int = 0,
        ignoresEnd: Bool = false,
        sampler: Sampler? = nil,
        timeout: Duration? = nil,
        samplingDevice: Model.Device = .automatic,
        constraint: Constraint? = nil
    ) async throws -> Completion {
        let request = GenerationRequest(
            prompt, maxTokens: maxTokens, sampling: sampling, stop: stop,
            sequence: sequence, ignoresEnd: ignoresEnd, sampler: sampler, timeout: timeout,
            samplingDevice: samplingDevice, constraint: constraint)
        return try await worker.run { cancel in
            var text = ""
            let result = try request.run(in: self.handle, cancel) { text += $0 }
            return Completion(text: text, result: result)
        }
    }
}
