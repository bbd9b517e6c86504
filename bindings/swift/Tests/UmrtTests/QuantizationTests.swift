import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct QuantizationTests {
        @Test func aQuantizedCheckpointIsSmallerAndOpens() async throws {
            let target = FileManager.default.temporaryDirectory
                .appending(path: "umrt-\(UUID().uuidString)").path
            defer { try? FileManager.default.removeItem(atPath: target) }
            var quantization = Quantization()
            quantization.bits = 8
            quantization.groupSize = 32
            let reports = Box<[LoadProgress]>([])
            try await Model.quantize(plainPath, to: target, quantization) { report in
                reports.change { $0.append(report) }
            }
            let info = try await Model.open(target).info
            #expect(info.quantizedBits == 8 && info.quantizedGroupSize == 32)
            #expect(try info.weightBytes < Model.inspect(plainPath).weightBytes)
            #expect(reports.value.last.map { $0.done == $0.total } == true)
            await #expect(throws: UmrtError.self) {
                try await Model.quantize(plainPath, to: target, quantization)
            }
        }
    }
}
