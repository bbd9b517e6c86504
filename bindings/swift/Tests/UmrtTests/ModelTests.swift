import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct ModelTests {
        @Test func progressReachesTheEnd() async throws {
            let reports = Box<[LoadProgress]>([])
            let model = try await Model.open(talesPath) { report in
                reports.change { $0.append(report) }
            }
            let last = try #require(reports.value.last)
            #expect(last.done == last.total && last.fraction == 1)
            #expect(last.total >= model.info.layerCount)
        }

        @Test func aModelSaysWhatItIs() async throws {
            let inspected = try Model.inspect(talesPath)
            let model = try await Model.open(talesPath)
            #expect(model.info.modelType == "llama" && inspected.modelType == "llama")
            #expect(inspected.device == nil && model.info.device != nil)
            #expect(model.info.quantizedBits == 4)
            #expect(try Model.inspect(plainPath).quantizedBits == nil)
            #expect(try model.metadata("model_type") == "llama")
            #expect(try model.metadata("not_there") == nil)
            #expect(try Library.devices().first?.kind == .cpu)
            #expect(Library.version.split(separator: ".").count == 3)
        }

        @Test func aGPUThatIsNotThereIsRefused() async throws {
            var options = Model.Options()
            options.device = .gpu
            options.gpuIndex = 99
            await #expect { _ = try await Model.open(talesPath, options: options) } throws: {
                let status = ($0 as? UmrtError)?.status
                return status == .unsupported || status == .invalidArgument
            }
            options.gpuIndex = -1
            #expect { try Model.estimate(talesPath, model: options) } throws: {
                ($0 as? UmrtError)?.message.contains("gpuIndex is -1") == true
            }
        }

        @Test func textBecomesTokensAndBack() async throws {
            let model = try await Model.open(talesPath)
            let text = "Once upon a time, a fox said: \u{1F44D}é"
            let tokens = try model.tokenize(text)
            #expect(try model.detokenize(tokens, skipsSpecial: true) == text)
            let detokenizer = try Detokenizer(model)
            let pieces = try tokens.map { try detokenizer.push($0) }
            #expect(try pieces.joined() + detokenizer.finish() == text)
            #expect(try model.tokenize("", addsSpecial: false) == [])
            let end = try #require(try model.specialToken(.end))
            #expect(try model.tokenInfo(end).endsText)
        }

        @Test func anEstimateAgreesWithWhatIsTaken() async throws {
            let estimate = try Model.estimate(talesPath, context: .init(tokensPerSequence: 512))
            #expect(estimate.fits && estimate.tokensPerSequence == 512)
            let model = try await Model.open(talesPath)
            #expect(try model.memory().weightsMapped == estimate.weightsMapped)
            var plan = MemoryPlan(parameterCount: 7_000_000_000, memoryBytes: 16 << 30)
            plan.bitsPerWeight = 4.5
            plan.gigabytesPerSecond = 100
            plan.layerCount = 32
            plan.keyValueHeadCount = 8
            plan.headDimension = 128
            plan.tokensPerSequence = 4096
            let result = try plan.result()
            #expect(result.fits && result.weights == 3_937_500_000)
            #expect(result.tokensPerSecond > 20 && result.tokensPerSecond < 26)
        }

        @Test func residencyChangesNothingButMemory() async throws {
            let model = try await Model.open(talesPath)
            let context = try await model.makeContext()
            let before = try await context.complete("Once upon a time", maxTokens: 20).text
            try await model.setResidency(.released)
            try await model.setResidency(.warm)
            try model.setPolicy(isPinned: true, priority: 3)
            try await context.trim(keeping: 0)
            #expect(try await context.complete("Once upon a time", maxTokens: 20).text == before)
        }

        @Test func anythingMayBeFreedFirst() async throws {
            var model: Model? = try await Model.open(talesPath)
            var context: Context? = try await model?.makeContext()
            let detokenizer = try Detokenizer(try #require(model))
            let token = try #require(try model?.tokenize("fox", addsSpecial: false).first)
            let stream = try #require(context).generate("Once upon a time", maxTokens: 20)
            model = nil
            context = nil
            #expect(try await collect(stream).count > 5)
            #expect(try detokenizer.push(token) + detokenizer.finish() != "")
        }
    }
}
