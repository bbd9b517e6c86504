#include <umrt.h>
