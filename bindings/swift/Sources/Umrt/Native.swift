import CUmrt

/// A handle of the C API, given back when nobody uses it any more.
///
/// The C functions may be called from any thread, and a handle that takes one call
/// at a time refuses a second one with `Status.busy`.
final class Handle: @unchecked Sendable {
    private let pointer: OpaquePointer
    private let free: @Sendable (OpaquePointer) -> Void

    /// Takes over what `make` stores.
    init(
        free: @escaping @Sendable (OpaquePointer?) -> Void,
        make: (inout OpaquePointer?) -> umrt_status
    ) throws {
        var made: OpaquePointer?
        try check(make(&made))
        guard let made else {
            preconditionFailure("umrt returned no handle")
        }
        pointer = made
        self.free = free
    }

    deinit {
        free(pointer)
    }

    /// Calls `body` with the handle, which stays alive until it returns.
    func use<Result>(_ body: (OpaquePointer) throws -> Result) rethrows -> Result {
        try withExtendedLifetime(self) { try body(pointer) }
    }

    /// Calls a function of the C API and throws what it reports.
    func call(_ function: (OpaquePointer) -> umrt_status) throws {
        try use { try check(function($0)) }
    }
}

/// A structure of the C API, which begins with its own size.
protocol Sized {
    init()
    var struct_size: UInt32 { get set }
}

extension Sized {
    /// All defaults.
    static var initialized: Self {
        var value = Self()
        value.struct_size = UInt32(MemoryLayout<Self>.stride)
        return value
    }

    /// What a function of the C API fills in.
    static func filled(by function: (inout Self) -> umrt_status) throws -> Self {
        var value = initialized
        try check(function(&value))
        return value
    }
}

extension umrt_batch: Sized {}
extension umrt_ctx_info: Sized {}
extension umrt_ctx_params: Sized {}
extension umrt_device_info: Sized {}
extension umrt_embed_params: Sized {}
extension umrt_eval_result: Sized {}
extension umrt_generate_params: Sized {}
extension umrt_generate_result: Sized {}
extension umrt_init_params: Sized {}
extension umrt_memory_budget: Sized {}
extension umrt_memory_budget_info: Sized {}
extension umrt_memory_diagnosis: Sized {}
extension umrt_memory_estimate: Sized {}
extension umrt_memory_info: Sized {}
extension umrt_model_info: Sized {}
extension umrt_model_params: Sized {}
extension umrt_model_policy: Sized {}
extension umrt_numbers: Sized {}
extension umrt_numbers_result: Sized {}
extension umrt_perf: Sized {}
extension umrt_quantize_params: Sized {}
extension umrt_request: Sized {}
extension umrt_request_result: Sized {}
extension umrt_residency_params: Sized {}
extension umrt_sampler_params: Sized {}
extension umrt_score_params: Sized {}
extension umrt_step_result: Sized {}
extension umrt_token_info: Sized {}
extension umrt_trim_result: Sized {}

/// The values that `function(buffer, capacity, needed)` writes, however many.
func collect<Value: Numeric>(
    expecting expected: Int,
    _ function: (UnsafeMutablePointer<Value>?, Int, inout Int) -> umrt_status
) throws -> [Value] {
    var capacity = expected
    while true {
        var needed = 0
        var status = UMRT_OK
        let values = [Value](unsafeUninitializedCapacity: capacity) { buffer, count in
            status = function(buffer.baseAddress, capacity, &needed)
            count = status == UMRT_OK ? needed : 0
        }
        if status != UMRT_NO_SPACE || needed <= capacity {
            try check(status)
            return values
        }
        capacity = needed
    }
}

/// The text that `function(buffer, capacity, needed)` writes, NUL included.
func collectText(
    expecting expected: Int,
    _ function: (UnsafeMutablePointer<CChar>?, Int, inout Int) -> umrt_status
) throws -> String {
    let bytes: [CChar] = try collect(expecting: expected + 1, function)
    return String(decoding: bytes.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// The text in an array of C, which ends with a NUL.
func text<Array>(in array: Array) -> String {
    withUnsafeBytes(of: array) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}

/// Static text of the C API.
func text(at pointer: UnsafePointer<CChar>?) -> String {
    pointer.map { String(cString: $0) } ?? ""
}

/// Text that the C API takes with a NUL behind it, so it must have none inside.
func cText(_ name: String, _ text: String) throws -> String {
    guard !text.utf8.contains(0) else {
        throw UmrtError(
            status: .invalidArgument, message: "\(name) has a NUL character; remove it")
    }
    return text
}

/// A count as the C API takes it.
func count(_ name: String, _ value: Int) throws -> UInt32 {
    guard let count = UInt32(exactly: value) else {
        throw UmrtError(
            status: .invalidArgument,
            message: "\(name) is \(value); it has to be from 0 to \(UInt32.max)")
    }
    return count
}

/// A length of time as the C API counts it, at least one; 0 for nil.
func milliseconds(_ name: String, _ duration: Duration?) throws -> UInt32 {
    guard let duration else {
        return 0
    }
    guard duration > .zero, duration <= .milliseconds(Int64(UInt32.max)) else {
        throw UmrtError(
            status: .invalidArgument,
            message: "\(name) is \(duration); it has to be more than 0 and at most 49 days")
    }
    return max(1, UInt32(duration / .milliseconds(1)))
}

/// Calls `body` with texts that have a NUL behind each, and their number.
func withCTexts<Result>(
    _ texts: [String],
    _ body: (UnsafePointer<UnsafePointer<CChar>?>?, Int) throws -> Result
) rethrows -> Result {
    var bytes: [CChar] = []
    let starts = texts.map { text in
        defer { bytes.append(contentsOf: text.utf8CString) }
        return bytes.count
    }
    return try bytes.withUnsafeBufferPointer { bytes in
        let pointers = starts.map { start in bytes.baseAddress.map { $0 + start } }
        return try body(pointers, pointers.count)
    }
}
