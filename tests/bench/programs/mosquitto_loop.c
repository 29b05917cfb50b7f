/* The floor: libmosquitto, and a grid that the kernel keeps. Does what the tutorial loop does.
 *
 * mosquitto_loop PORT INTERVAL_S FILE...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int count, char **words)
{
    if (count < 4)
        return 2;
    double interval_s = atof(words[2]);
    struct timespec due;
    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new(NULL, true, NULL);
    if (!client || mosquitto_connect(client, "127.0.0.1", atoi(words[1]), 60) != MOSQ_ERR_SUCCESS) {
        fprintf(stderr, "no broker on port %s\n", words[1]);
        return 1;
    }
    mosquitto_loop_start(client);
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (;;) {
        for (int n = 3; n < count; n++) {
            long millidegrees;
            char topic[64], payload[96];
            struct timespec now;
            FILE *file = fopen(words[n], "r");
            if (!file || fscanf(file, "%ld", &millidegrees) != 1)
                return 1;
            fclose(file);
            clock_gettime(CLOCK_REALTIME, &now);
            snprintf(topic, sizeof topic, "sensors/c/s%d/state", n - 3);
            int length = snprintf(payload, sizeof payload, "{\"temperature\": %.3f, \"time\": %ld.%06ld}",
                                  millidegrees / 1000.0, (long)now.tv_sec, now.tv_nsec / 1000);
            mosquitto_publish(client, NULL, topic, length, payload, 1, true);
        }
        long step_ns = (long)(interval_s * 1e9);
        due.tv_sec += (due.tv_nsec + step_ns) / 1000000000L;
        due.tv_nsec = (due.tv_nsec + step_ns) % 1000000000L;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
            ;
    }
}
