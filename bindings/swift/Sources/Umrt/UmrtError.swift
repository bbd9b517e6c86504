import CUmrt

/// What went wrong, as the C API counts it. The numbers never change.
public struct Status: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: Int32

    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// The caller broke a documented rule: an id or size out of range.
    public static let invalidArgument = Status(rawValue: UMRT_INVALID_ARGUMENT)
    /// A path or name that is not there.
    public static let notFound = Status(rawValue: UMRT_NOT_FOUND)
    /// The operating system refused to read or write a file.
    public static let io = Status(rawValue: UMRT_IO)
    /// A malformed checkpoint, tokenizer or template.
    public static let format = Status(rawValue: UMRT_FORMAT)
    /// Well-formed, but not something this build can do; the message names it.
    public static let unsupported = Status(rawValue: UMRT_UNSUPPORTED)
    /// The operating system has no memory left.
    public static let outOfMemory = Status(rawValue: UMRT_OUT_OF_MEMORY)
    /// More memory than models may use; nothing was allocated.
    public static let overBudget = Status(rawValue: UMRT_OVER_BUDGET)
    /// A sequence would exceed its context; nothing was written.
    public static let noSpace = Status(rawValue: UMRT_NO_SPACE)
    /// Another call is using this object.
    public static let busy = Status(rawValue: UMRT_BUSY)
    /// MLX or its device failed.
    public static let backend = Status(rawValue: UMRT_BACKEND)
    /// A bug in umrt; it was caught. Let go of the object that the call used.
    public static let panic = Status(rawValue: UMRT_PANIC)
    /// A bug in umrt that it noticed itself.
    public static let `internal` = Status(rawValue: UMRT_INTERNAL)

    /// Stopped because the time that the call was given is over.
    public static let deadlineExceeded = Status(rawValue: UMRT_DEADLINE_EXCEEDED)

    /// The status's name, such as "NO_SPACE".
    public var description: String {
        String(cString: umrt_status_name(rawValue))
    }
}

/// Why a call failed.
///
/// Calls that were stopped because their task was cancelled throw
/// `CancellationError` instead.
public struct UmrtError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of failure.
    public let status: Status
    /// One sentence that says what happened, where, and what to do.
    public let message: String

    public var description: String {
        "\(status): \(message)"
    }
}

/// Throws what a status says. On the thread of the call, which has the message.
func check(_ status: umrt_status) throws {
    switch status {
    case UMRT_OK:
        return
    case UMRT_CANCELLED:
        throw CancellationError()
    default:
        let message = String(cString: umrt_last_error())
        throw UmrtError(status: Status(rawValue: status), message: message)
    }
}
