import CUmrt

/// Which tokens' hidden states make a text's vector.
public enum Pooling: UInt32, Sendable {
    /// The average over all tokens.
    case mean = 0
    case last = 1
    case first = 2
}

extension Context {
    /// A vector for each text: the hidden states behind the model's last norm, pooled over
    /// its tokens, `hiddenSize` numbers. Cancelling the task stops it.
    ///
    /// Texts are evaluated next to each other in the sequences that hold no tokens, so more
    /// sequences are faster for short texts. Afterwards those are empty again, and the
    /// logits of the last evaluation are still there.
    ///
    /// - Parameters:
    ///   - texts: Encoded with what the tokenizer puts around a text.
    ///   - isNormalized: Whether vectors are scaled to the length 1.
    /// - Throws: `UmrtError` with `.invalidArgument` (a text without tokens), `.notFound` (no
    ///   tokenizer), `.noSpace` (a text is longer than a sequence may be, or no sequence is
    ///   empty), `.overBudget`, `.outOfMemory` or `.backend`; `CancellationError`.
    public func embed(
        _ texts: [String], pooling: Pooling = .mean, isNormalized: Bool = true
    ) async throws -> [[Float]] {
        let texts = try texts.map { try cText("a text", $0) }
        return try await worker.run { cancel in
            try withCTexts(texts) { start, count in
                var params = umrt_embed_params(pooling, isNormalized, count)
                params.texts = start
                return try self.vectors(&params, cancel)
            }
        }
    }

    /// A vector for each text, as above, from the tokens of each.
    public func embed(
        _ texts: [[Token]], pooling: Pooling = .mean, isNormalized: Bool = true
    ) async throws -> [[Float]] {
        let tokens = texts.flatMap { $0 }
        let lengths = texts.map(\.count)
        return try await worker.run { cancel in
            try tokens.withUnsafeBufferPointer { tokens in
                try lengths.withUnsafeBufferPointer { lengths in
                    var params = umrt_embed_params(pooling, isNormalized, lengths.count)
                    params.tokens = tokens.baseAddress
                    params.lengths = lengths.baseAddress
                    return try self.vectors(&params, cancel)
                }
            }
        }
    }

    private func vectors(_ params: inout umrt_embed_params, _ cancel: Cancel) throws -> [[Float]] {
        let width = model.info.hiddenSize
        let floats: [Float] = try handle.use { context in
            try cancel.use { cancel in
                try collect(expecting: params.n_texts * width) {
                    umrt_embed(context, &params, cancel, $0, $1, &$2)
                }
            }
        }
        return parts(of: floats, lengths: Array(repeating: width, count: params.n_texts))
    }

    /// The log-probability (natural logarithm) of each token of each continuation behind a
    /// prompt, which is evaluated once. Memory is taken for the logits of a few tokens at a
    /// time. Cancelling the task stops it.
    ///
    /// - Parameters:
    ///   - continuations: The tokens of each, at least one.
    ///   - prompt: At least one token.
    ///   - sequence: The sequence whose tokens come in front of the prompt. It is as before
    ///     afterwards, and so are the logits of the last evaluation.
    /// - Throws: `UmrtError` with `.invalidArgument`, `.noSpace` (sequence, prompt and a
    ///   continuation are longer than a sequence may be), `.overBudget`, `.outOfMemory` or
    ///   `.backend`; `CancellationError`.
    public func score(
        _ continuations: [[Token]], after prompt: [Token], sequence: Int = 0
    ) async throws -> [[Float]] {
        let tokens = continuations.flatMap { $0 }
        let lengths = continuations.map(\.count)
        let scores: [Float] = try await worker.run { cancel in
            try prompt.withUnsafeBufferPointer { prompt in
                try tokens.withUnsafeBufferPointer { tokens in
                    try lengths.withUnsafeBufferPointer { lengths in
                        var params = umrt_score_params.initialized
                        params.seq = Int32(clamping: sequence)
                        params.prompt = prompt.baseAddress
                        params.n_prompt = prompt.count
                        params.continuations = tokens.baseAddress
                        params.lengths = lengths.baseAddress
                        params.n_continuations = lengths.count
                        return try self.scores(&params, tokens.count, cancel)
                    }
                }
            }
        }
        return parts(of: scores, lengths: lengths)
    }

    private func scores(
        _ params: inout umrt_score_params, _ count: Int, _ cancel: Cancel
    ) throws -> [Float] {
        try handle.use { context in
            try cancel.use { cancel in
                try collect(expecting: count) {
                    umrt_score(context, &params, cancel, $0, $1, &$2)
                }
            }
        }
    }

    /// The most likely tokens after one row of the last evaluation, with the natural
    /// logarithms of their probabilities, the most likely first.
    ///
    /// - Parameter count: From 1 to the size of the vocabulary.
    /// - Throws: `UmrtError` with `.invalidArgument` (no such row, `count` out of range) or
    ///   `.backend` (logits are NaN).
    public func mostLikely(
        _ count: Int, row: Int = 0
    ) async throws -> [(token: Token, logProbability: Float)] {
        let n = try Umrt.count("count", count)
        let row = try Umrt.count("row", row)
        return try await worker.run { _ in
            // What is refused writes nothing.
            let capacity = min(count, self.info.vocabularySize)
            var tokens = [Token](repeating: 0, count: capacity)
            var logProbabilities = [Float](repeating: 0, count: capacity)
            try self.handle.call {
                umrt_top_logprobs($0, Int(row), n, &tokens, &logProbabilities)
            }
            return zip(tokens, logProbabilities).map { ($0, $1) }
        }
    }
}

extension umrt_embed_params {
    init(_ pooling: Pooling, _ isNormalized: Bool, _ count: Int) {
        self = .initialized
        self.pooling = pooling.rawValue
        flags = isNormalized ? UInt32(UMRT_EMBED_NORMALIZE) : 0
        n_texts = count
    }
}

/// What lies one part after the other.
private func parts(of values: [Float], lengths: [Int]) -> [[Float]] {
    var rest = values[...]
    return lengths.map { length in
        defer { rest = rest.dropFirst(length) }
        return Array(rest.prefix(length))
    }
}
