import CUmrt
import Dispatch

/// A thread for blocking calls, one at a time and in the order of their coming:
/// Swift's own threads are few and must not wait.
final class Worker: Sendable {
    private let queue: DispatchQueue

    init(_ label: String) {
        queue = DispatchQueue(label: label)
    }

    /// Runs `body` on the worker's thread. If the task is cancelled, `body`'s flag is
    /// triggered.
    func run<Result: Sendable>(
        _ body: @escaping @Sendable (Cancel) throws -> Result
    ) async throws -> Result {
        let cancel = try Cancel()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                start { continuation.resume(with: Swift.Result { try body(cancel) }) }
            }
        } onCancel: {
            cancel.trigger()
        }
    }

    /// Runs `body` on the worker's thread, some time.
    func start(_ body: @escaping @Sendable () -> Void) {
        queue.async(execute: body)
    }
}

/// A flag that stops calls on other threads.
struct Cancel: Sendable {
    private let handle: Handle

    init() throws {
        handle = try Handle(free: umrt_cancel_free) { umrt_cancel_new(&$0) }
    }

    func trigger() {
        handle.use { umrt_cancel_trigger($0) }
    }

    func use<Result>(_ body: (OpaquePointer) throws -> Result) rethrows -> Result {
        try handle.use(body)
    }
}

/// Calls `body` with a C function that reports progress to `report`, and what that
/// function takes as its `userdata`.
func withProgress<Result>(
    _ report: LoadProgress.Report?,
    _ body: (umrt_progress_fn?, UnsafeMutableRawPointer?) throws -> Result
) rethrows -> Result {
    guard let report else {
        return try body(nil, nil)
    }
    return try withUnsafePointer(to: report) { report in
        let function: umrt_progress_fn = { done, total, userdata in
            let report = userdata!.assumingMemoryBound(to: LoadProgress.Report.self).pointee
            report(LoadProgress(done: done, total: total))
        }
        return try body(function, UnsafeMutableRawPointer(mutating: report))
    }
}

/// How far a call is that opens a model or reads its weights.
public struct LoadProgress: Hashable, Sendable {
    /// Hears of progress, on a thread of umrt's.
    public typealias Report = @Sendable (LoadProgress) -> Void

    /// Layers that are ready, or bytes where weights are read.
    public let done: Int
    /// All of them.
    public let total: Int

    /// From 0 to 1.
    public var fraction: Double {
        total > 0 ? Double(done) / Double(total) : 0
    }
}
