import CUmrt

/// The C library that this process loaded.
public enum Library {
    /// Its version, such as "0.1.0".
    public static var version: String {
        String(cString: umrt_version())
    }

    /// The devices to compute on; the CPU is the first.
    ///
    /// - Throws: `UmrtError` with `.backend`.
    public static func devices() throws -> [DeviceInfo] {
        var count = 0
        try check(umrt_device_count(&count))
        return try (0..<count).map { index in
            try DeviceInfo(.filled { umrt_device_info_get(index, &$0) })
        }
    }

    /// How much to log.
    public enum LogLevel: Int32, Sendable {
        /// Something failed and the caller gets an error for it.
        case error = 1
        /// Something is not as it should be, but goes on.
        case warning = 2
        /// What was opened and how.
        case info = 3
        /// More than most people want to know.
        case debug = 4
    }

    /// Sends messages up to `level` to `receive`, on any thread that uses umrt; it must not
    /// call umrt. umrt never writes to stdout or stderr itself.
    ///
    /// Each call keeps its `receive` for as long as the process lives, since a message may
    /// still be on its way.
    public static func log(
        _ level: LogLevel = .info, to receive: @escaping @Sendable (LogLevel, String) -> Void
    ) {
        let receiver = Unmanaged.passRetained(LogReceiver(receive: receive))
        umrt_log_set(
            { level, message, userdata in
                let receiver = Unmanaged<LogReceiver>.fromOpaque(userdata!).takeUnretainedValue()
                receiver.receive(LogLevel(rawValue: level) ?? .error, text(at: message))
            }, receiver.toOpaque(), level.rawValue)
    }

    /// Logs nothing any more.
    public static func stopLogging() {
        umrt_log_set(nil, nil, 0)
    }
}

private final class LogReceiver: Sendable {
    let receive: @Sendable (Library.LogLevel, String) -> Void

    init(receive: @escaping @Sendable (Library.LogLevel, String) -> Void) {
        self.receive = receive
    }
}

/// One device to compute on.
public struct DeviceInfo: Hashable, Sendable {
    public let kind: Model.Device
    /// Bytes that models may use on it.
    public let usableBytes: UInt64
    /// For people: what it is and which MLX drives it.
    public let name: String

    init(_ info: umrt_device_info) {
        kind = info.kind == UInt32(UMRT_DEVICE_GPU) ? .gpu : .cpu
        usableBytes = info.usable_bytes
        name = text(in: info.name)
    }
}
