package jenkins

import java.util.concurrent.TimeUnit

/** The `sh` step with a real shell. */
class Shell {
    private static final long MAX_SECONDS = 150

    /** Its exit `status`, and the text of its `output` and `errors`. */
    static Map run(String script, String folder, Map<String, String> variables) {
        File output = File.createTempFile('output', '.txt')
        File errors = File.createTempFile('errors', '.txt')
        try {
            ProcessBuilder builder = new ProcessBuilder('sh', '-ec', script).directory(new File(folder))
            builder.environment().putAll(variables)
            Process process = builder.redirectOutput(output).redirectError(errors).start()
            if (!process.waitFor(MAX_SECONDS, TimeUnit.SECONDS)) {
                process.destroyForcibly()
                throw new IllegalStateException("not finished within ${MAX_SECONDS} s: ${script}")
            }
            return [status: process.exitValue(), output: output.getText('UTF-8'), errors: errors.getText('UTF-8')]
        } finally {
            output.delete()
            errors.delete()
        }
    }
}
