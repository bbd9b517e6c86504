import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct GenerationTests {
        @Test func greedyTokensAreThoseOfTransformers() async throws {
            let expected = try Expected("llama3-f32/fixture.json")
            let context = try await Model.open(plainPath).makeContext()
            var next = expected.promptIds
            var generated: [Token] = []
            let sampler = try Sampler()
            while generated.count < expected.greedyIds.count {
                try await context.evaluate(next)
                next = [try await context.sample(with: sampler)]
                generated += next
            }
            #expect(generated == expected.greedyIds)
        }

        @Test func aChatContinuesAsWithTransformers() async throws {
            let expected = try Expected("llama3-chat-f16/chat.json")
            let model = try await Model.open(chatPath)
            let context = try await model.makeContext()
            let ended = Box<GenerationResult?>(nil)
            let pieces = try await collect(
                context.generate(
                    .tokens(expected.promptIds), maxTokens: expected.greedyIds.count,
                    ignoresEnd: true, onEnd: { result in ended.change { $0 = result } }))
            // The model's vocabulary is padded beyond the tokenizer's 304 ids.
            let withText = expected.greedyIds.filter { $0 < 304 }
            #expect(try pieces.joined() == model.detokenize(withText, skipsSpecial: true))
            #expect(pieces.count > 10 && !pieces.contains(""))
            let result = try #require(ended.value)
            #expect(result.stopReason == .maxTokens)
            #expect(result.promptTokens == expected.promptIds.count)
            #expect(result.tokens == expected.greedyIds.count)
            let length = try await context.length()
            #expect(length == result.promptTokens + result.tokens - 1)
            #expect(try await context.tokens().starts(with: expected.promptIds))
        }

        @Test func promptsChatsAndTokensAreTheSame() async throws {
            let model = try await Model.open(talesPath)
            let context = try await model.makeContext()
            let chat: Chat = [.user("Tell me a \"story\"\nof two\u{1} lines: 👍")]
            let rendered = try model.render(chat)
            #expect(rendered.contains("a \"story\"\nof two\u{1} lines: 👍"))
            let tokens = try model.tokenize(rendered, addsSpecial: false, parsesSpecial: true)
            let fromChat = try await context.complete(.chat(chat), maxTokens: 30)
            try await context.trim(keeping: 0)
            let fromTokens = try await context.complete(.tokens(tokens), maxTokens: 30)
            #expect(fromChat.text == fromTokens.text && !fromChat.text.isEmpty)
            #expect(fromChat.result.promptTokens == tokens.count)
        }

        @Test func textsAreWhatTheirConstraintDescribes() async throws {
            let model = try await Model.open(talesPath)
            let context = try await model.makeContext()
            let date = try await model.makeConstraint(.regex("[0-9]{4}-[0-9]{2}-[0-9]{2}"))
            let warm = Sampling(temperature: 1, seed: 3)
            let dated = try await context.complete(
                "It was on ", maxTokens: 40, sampling: warm, constraint: date)
            #expect(dated.text.wholeMatch(of: /[0-9]{4}-[0-9]{2}-[0-9]{2}/) != nil)
            #expect(dated.result.stopReason == .end)

            try await context.trim(keeping: 0)
            let schema = """
                {"type": "object", "required": ["age"], "additionalProperties": false,
                 "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 120}}}
                """
            let person = try await model.makeConstraint(.jsonSchema(schema))
            let request = GenerationRequest("A fox: ", maxTokens: 100, constraint: person)
            let results = try await context.complete([request])
            let text = try #require(results.first).get().text
            let ages = try JSONDecoder().decode([String: Int].self, from: Data(text.utf8))
            #expect(ages.keys.elementsEqual(["age"]))
        }

        @Test func theStreamAndTheWholeTextAreTheSame() async throws {
            let context = try await Model.open(talesPath).makeContext()
            let pieces = try await collect(context.generate("Once upon a time", maxTokens: 60))
            try await context.trim(keeping: 0)
            let completion = try await context.complete("Once upon a time", maxTokens: 60)
            #expect(pieces.joined() == completion.text)
            #expect(pieces.count > 20)
            #expect(completion.result.decodeRate > 0)
        }

        @Test func stopStringsAreNotPartOfTheText() async throws {
            let context = try await Model.open(talesPath).makeContext()
            let whole = try await context.complete("Once upon a time", maxTokens: 60).text
            let stop = String(whole.dropFirst(20).prefix(5))
            try await context.trim(keeping: 0)
            let stopped = try await context.complete(
                "Once upon a time", maxTokens: 60, stop: ["not in there", stop])
            let end = try #require(whole.range(of: stop)).lowerBound
            #expect(stopped.text == String(whole[..<end]))
            #expect(stopped.result.stopReason == .stopString)
        }

        @Test func seedsDecide() async throws {
            let context = try await Model.open(talesPath).makeContext()
            func text(seed: UInt64, _ sampler: Sampler? = nil) async throws -> String {
                try await context.trim(keeping: 0)
                return try await context.complete(
                    "Once", maxTokens: 40, sampling: Sampling(temperature: 1.5, seed: seed),
                    sampler: sampler
                ).text
            }
            let first = try await text(seed: 5)
            #expect(try await text(seed: 5) == first)
            #expect(try await text(seed: 6) != first)
            let sampler = try Sampler(Sampling(temperature: 1.5, seed: 5))
            #expect(try await text(seed: 0, sampler) == first)
            #expect(try await text(seed: 0, sampler) != first, "the sampler goes on")
            try sampler.reset()
            #expect(try await text(seed: 0, sampler) == first)
        }

        @Test func aFullContextEndsIt() async throws {
            let model = try await Model.open(talesPath)
            let context = try await model.makeContext(options: .init(tokensPerSequence: 24))
            let completion = try await context.complete("Once upon a time", ignoresEnd: true)
            #expect(completion.result.stopReason == .contextFull)
            #expect(try await context.length() == 24)
        }

        /// By the operations of GPUs, on the CPU.
        @Test func tokensAreTheSameWhereverTheyAreChosen() async throws {
            var options = Model.Options()
            options.cpuOperations = .stock
            let context = try await Model.open(talesPath, options: options).makeContext()
            for sampling in [Sampling.greedy, Sampling(temperature: 0.9, topK: 50, seed: 7)] {
                var texts = Set<String>()
                for device in [Model.Device.automatic, .cpu, .gpu] {
                    let completion = try await context.complete(
                        "Once upon a time", maxTokens: 16, sampling: sampling,
                        samplingDevice: device)
                    texts.insert(completion.text)
                    try await context.trim(keeping: 0)
                }
                #expect(texts.count == 1)
            }
        }

        @Test func onlyWhatComputesOnAGPUChoosesThere() async throws {
            let context = try await Model.open(talesPath).makeContext()
            await #expect {
                _ = try await context.complete("Once", samplingDevice: .gpu)
            } throws: {
                ($0 as? UmrtError)?.status == .unsupported
            }
        }

        @Test func generationsOfManyContextsRunAtOnce() async throws {
            let model = try await Model.open(talesPath)
            let texts = try await withThrowingTaskGroup(of: String.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        let context = try await model.makeContext(
                            options: .init(tokensPerSequence: 128))
                        return try await context.complete("Once upon a time", maxTokens: 60).text
                    }
                }
                return try await group.reduce(into: Set()) { $0.insert($1) }
            }
            #expect(texts.count == 1)
        }

        @Test func callsOfOneContextRunInTheirOrder() async throws {
            let context = try await Model.open(talesPath).makeContext()
            let stream = context.generate("Once upon a time", maxTokens: 60)
            let length = try await context.length()
            #expect(length > 40, "it waited for the generation")
            #expect(try await collect(stream).count > 20)
        }
    }
}
