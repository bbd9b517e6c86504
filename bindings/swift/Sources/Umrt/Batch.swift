import CUmrt

extension Context {
    /// Generates several texts, as many at once as the context has empty sequences: each
    /// request takes one, and empties it when it ends. Together they are faster than one
    /// after the other, and none waits for another's prompt. Cancelling the task stops all.
    ///
    /// - Returns: For each request its text, or what ended it.
    /// - Throws: `UmrtError` with `.overBudget`, `.outOfMemory` or `.backend`;
    ///   `CancellationError`.
    public func complete(
        _ requests: [GenerationRequest]
    ) async throws -> [Result<Completion, UmrtError>] {
        try await worker.run { cancel in
            let batch = try Batch(in: self.handle)
            for request in requests {
                try batch.submit(request)
            }
            try batch.run(cancel)
            return try batch.results()
        }
    }
}

/// Requests that run side by side, on one thread.
private final class Batch {
    private let scheduler: Handle
    private var entries: [Entry] = []

    /// A request that was handed in, or refused.
    private final class Entry {
        var text = ""
        var id: UInt64 = 0
        var refusal: UmrtError?
    }

    init(in context: Handle) throws {
        scheduler = try context.use { context in
            try Handle(free: umrt_scheduler_free) { umrt_scheduler_new(context, nil, &$0) }
        }
    }

    func submit(_ request: GenerationRequest) throws {
        let entry = Entry()
        entries.append(entry)
        do {
            try request.withParams { params in
                try withUnsafePointer(to: &params) { params in
                    var native = umrt_request.initialized
                    native.params = params
                    native.userdata = Unmanaged.passUnretained(entry).toOpaque()
                    native.callback = { start, length, _, userdata in
                        let entry = Unmanaged<Entry>.fromOpaque(userdata!).takeUnretainedValue()
                        entry.text += text(at: start, length: length)
                        return 0
                    }
                    try scheduler.call { umrt_scheduler_submit($0, &native, &entry.id) }
                }
            }
        } catch let error as UmrtError {
            entry.refusal = error
        }
    }

    func run(_ cancel: Cancel) throws {
        var step = umrt_step_result.initialized
        repeat {
            try scheduler.call { scheduler in
                cancel.use { umrt_scheduler_step(scheduler, $0, &step) }
            }
        } while step.n_active > 0
    }

    func results() throws -> [Result<Completion, UmrtError>] {
        try entries.map { entry in
            if let refusal = entry.refusal {
                return .failure(refusal)
            }
            let result = try umrt_request_result.filled { result in
                scheduler.use { umrt_scheduler_result($0, entry.id, &result) }
            }
            guard result.status == UMRT_OK else {
                let message = text(in: result.message)
                return .failure(UmrtError(status: Status(rawValue: result.status), message: message))
            }
            return .success(Completion(text: entry.text, result: GenerationResult(result)))
        }
    }
}

extension GenerationResult {
    init(_ result: umrt_request_result) {
        var alone = umrt_generate_result.initialized
        alone.stop_reason = result.stop_reason
        alone.n_prompt_tokens = result.n_prompt_tokens
        alone.n_tokens = result.n_tokens
        alone.prompt_ns = result.prompt_ns
        alone.decode_ns = result.decode_ns
        self.init(alone)
    }
}
