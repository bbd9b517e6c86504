import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct ContextTests {
        func logits(of context: Context, _ tokens: [Token]) async throws -> [Float] {
            try await context.trim(keeping: 0)
            try await context.evaluate(tokens)
            return try await context.logits()
        }

        @Test func aBatchOfSequencesHasARowForEachWantedToken() async throws {
            let model = try await Model.open(plainPath)
            let context = try await model.makeContext(options: .init(sequenceCount: 2))
            let rows = try await context.evaluate([
                BatchToken(3), BatchToken(5, wantsLogits: true),
                BatchToken(3, sequence: 1), BatchToken(5, sequence: 1, wantsLogits: true),
            ])
            #expect(rows == 2)
            #expect(try await context.logits(row: 0) == context.logits(row: 1))
            #expect(try await context.logits().count == model.info.vocabularySize)
            let largest = try await context.withLogits(row: 1) { $0.max() }
            #expect(try await context.logits(row: 1).max() == largest)
            await #expect(throws: UmrtError.self) { try await context.logits(row: 2) }
        }

        @Test func forksShareTheirMemoryAndDiffer() async throws {
            let model = try await Model.open(plainPath)
            let context = try await model.makeContext(options: .init(sequenceCount: 2))
            try await context.evaluate([3, 5, 7])
            let before = try await context.memory().keyValuesReserved
            try await context.fork(from: 0, to: 1)
            #expect(try await context.memory().keyValuesReserved == before)
            try await context.evaluate([9], sequence: 1)
            #expect(try await context.tokens(0) == [3, 5, 7])
            #expect(try await context.tokens(1) == [3, 5, 7, 9])
            #expect(try await context.memory(of: 1).keyValuesUsed > 0)
        }

        @Test func savedSequencesGoOnWithTheSameLogits() async throws {
            let model = try await Model.open(plainPath)
            let context = try await model.makeContext()
            try await context.evaluate([3, 5, 7])
            let file = FileManager.default.temporaryDirectory
                .appending(path: "umrt-\(UUID().uuidString).kv").path
            defer { try? FileManager.default.removeItem(atPath: file) }
            try await context.save(to: file)
            let bytes = try await context.saved()
            try await context.evaluate([9])
            let expected = try await context.logits()
            for isFile in [true, false] {
                let other = try await model.makeContext(options: .init(tokensPerSequence: 64))
                if isFile {
                    try await other.load(from: file)
                } else {
                    try await other.load(from: bytes)
                }
                try await other.evaluate([9])
                #expect(try await other.logits() == expected)
            }
            await #expect(throws: UmrtError.self) {
                try await context.load(from: Array(bytes.dropLast()))
            }
            #expect(try await context.length() == 4)
        }

        @Test func aSequenceGoesThroughAFileOfMlxLm() async throws {
            let model = try await Model.open(plainPath)
            let context = try await model.makeContext()
            try await context.evaluate([3, 5, 7])
            let file = FileManager.default.temporaryDirectory
                .appending(path: "umrt-\(UUID().uuidString).safetensors").path
            defer { try? FileManager.default.removeItem(atPath: file) }
            try await context.exportMLX(to: file)
            try await context.evaluate([9])
            let expected = try await context.logits()
            for tokens in [nil, [3, 5, 7]] as [[Token]?] {
                try await context.trim(keeping: 0)
                try await context.importMLX(from: file, tokens: tokens)
                #expect(try await context.tokens(0) == [3, 5, 7])
                try await context.evaluate([9])
                #expect(try await context.logits() == expected)
            }
            await #expect(throws: UmrtError.self) {
                try await context.importMLX(from: file, tokens: [3, 5])
            }
        }

        @Test func adaptersAreSwappedAndLeaveNothingBehind() async throws {
            let model = try await Model.open(plainPath)
            let folder = fixtures.appending(path: "adapters")
            let first = try model.openAdapter(folder.appending(path: "peft-attention").path)
            let second = try model.openAdapter(folder.appending(path: "mlx-float").path)
            let context = try await model.makeContext()
            let prompt = try Expected("llama3-f32/fixture.json").promptIds
            let plain = try await logits(of: context, prompt)
            try await context.setAdapters([(first, 1)])
            let adapted = try await logits(of: context, prompt)
            #expect(adapted != plain)
            try await context.setAdapters([(first, 1), (second, 0.5)])
            #expect(try await logits(of: context, prompt) != adapted)
            try await context.setAdapters([])
            #expect(try await logits(of: context, prompt) == plain)
        }

        @Test func fewerBitsTakeLessMemory() async throws {
            let model = try await Model.open(talesPath)
            var options = Context.Options(tokensPerSequence: 256)
            let computed = try await model.makeContext(options: options)
            options.keysAndValues = .bits8Group32
            let small = try await model.makeContext(options: options)
            #expect(small.info.keyValueBytesPerToken < computed.info.keyValueBytesPerToken)
        }
    }
}
