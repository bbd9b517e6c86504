/* Says which devices there are, or why there is no GPU. */

#include "report.h"

int main(void) {
  size_t n = 0;
  need(umrt_device_count(&n), "devices");
  for (size_t i = 0; i < n; i++) {
    umrt_device_info info = UMRT_DEVICE_INFO_INIT;
    need(umrt_device_info_get(i, &info), "device");
    printf("{\"kind\": \"%s\", \"name\": ", info.kind == UMRT_DEVICE_GPU ? "gpu" : "cpu");
    print_text(info.name);
    printf(", \"gpu_index\": %u, \"total_bytes\": %llu, \"free_bytes\": %llu, "
           "\"usable_bytes\": %llu}\n",
           info.gpu_index, (unsigned long long)info.total_bytes,
           (unsigned long long)info.free_bytes, (unsigned long long)info.usable_bytes);
  }
  return 0;
}
