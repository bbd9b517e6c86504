/* The library is loaded, used, unloaded and loaded again, as plug-ins are. */

#include "loaded.h"

#include <pthread.h>

/* A thread that used the library keeps it loaded until the thread ends. */
static void use_in_another_thread(void *library) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, use_library, library) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

int main(void) {
  for (int i = 0; i < 3; i++) {
    void *library = load_library(LIBRARY);
    use_in_another_thread(library);
    if (i > 0) use_library(library);
    CHECK(dlclose(library) == 0);
  }
  return check_summary(__FILE__);
}
