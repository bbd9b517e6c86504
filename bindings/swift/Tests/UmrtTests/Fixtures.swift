import Foundation
import Testing
import Umrt

/// One test after the other: some change what the whole process may use.
@Suite(.serialized) struct UmrtTests {}

/// The source tree.
let root = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

let fixtures = root.appending(path: "tests/fixtures")

/// The bundled model, which writes English.
let talesPath = root.appending(path: "examples/models/umrt-tales-4bit").path

/// 2 layers, 320 tokens, float16, with a tokenizer and a chat template.
let chatPath = fixtures.appending(path: "models/llama3-chat-f16").path

/// 2 layers, 128 tokens, float32, without a tokenizer.
let plainPath = fixtures.appending(path: "models/llama3-f32").path

/// A prompt and how transformers continues it.
struct Expected: Decodable {
    let promptIds: [Token]
    let greedyIds: [Token]

    init(_ file: String) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let data = try Data(contentsOf: fixtures.appending(path: "models").appending(path: file))
        self = try decoder.decode(Expected.self, from: data)
    }
}

/// All pieces of a stream.
func collect(_ stream: AsyncThrowingStream<String, any Error>) async throws -> [String] {
    var pieces: [String] = []
    for try await piece in stream {
        pieces.append(piece)
    }
    return pieces
}

/// A value that closures on other threads set.
final class Box<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var stored: Value

    init(_ value: Value) {
        stored = value
    }

    var value: Value {
        lock.withLock { stored }
    }

    func change(_ body: (inout Value) -> Void) {
        lock.withLock { body(&stored) }
    }
}
