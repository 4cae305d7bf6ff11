package jenkins

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * Runs a declarative pipeline: `agent`, `environment`, `stages`, `when`, `parallel` (one after the other) and `post`. A section
 * that it does not know is an error; `options`, `triggers` and `parameters` are for Jenkins itself.
 */
class Declarative implements Serializable {
    private static final long serialVersionUID = 1L
    private static final List<String> IGNORED = ['options', 'triggers', 'parameters', 'beforeAgent', 'failFast']

    private final Script script
    private final transient Build build

    Declarative(Script script, Build build) {
        this.script = script
        this.build = build
    }

    void pipeline(Closure definition) {
        run(read(definition))
    }

    /** The sections of a pipeline or a stage by name; stages are a list of them. */
    private Map read(Closure definition) {
        Map sections = [stages: [], parallel: false]
        Reader reader = new Reader({ String name, List arguments ->
            if (name == 'stage') {
                sections.stages << (read(arguments[1]) + [name: arguments[0]])
            } else if (['stages', 'parallel'].contains(name)) {
                sections.stages = read(arguments[0]).stages
            } else if (['agent', 'environment', 'when', 'steps', 'post'].contains(name)) {
                sections[name] = arguments[0]
            } else if (!IGNORED.contains(name)) {
                throw new IllegalStateException("a declarative pipeline has no section ${name} here")
            }
        })
        evaluate(definition, reader)
        return sections
    }

    private static Object evaluate(Closure body, Object delegate) {
        Closure copy = (Closure) body.clone()
        copy.delegate = delegate
        copy.resolveStrategy = Closure.DELEGATE_ONLY
        return copy.call()
    }

    private void run(Map sections) {
        if (sections.name) {
            build.env.fill([STAGE_NAME: sections.name])
        }
        if (sections.environment) {
            evaluate(sections.environment, new Variables(build))
        }
        if (sections.when && !applies(sections.when)) {
            return
        }
        boolean agent = sections.agent && sections.agent != 'none'
        build.env.fill(agent ? [WORKSPACE: '/workspace'] : [:])
        Throwable failure = null
        try {
            sections.stages.each { run(it) }
            if (sections.steps) {
                evaluate(sections.steps, script)
            }
        } catch (FlowInterruptedException | AbortException problem) {
            failure = problem
            build.currentBuild.result = problem instanceof AbortException ? 'FAILURE' : 'ABORTED'
        } finally {
            if (agent) {
                build.env.remove('WORKSPACE')
            }
        }
        if (sections.post) {
            read(sections.post, build.currentBuild.result)
        }
        if (failure != null) {
            throw failure
        }
    }

    /** Runs the parts of `post` that apply to a result. */
    private void read(Closure post, String result) {
        evaluate(post, new Reader({ String name, List arguments ->
            boolean due = [
                always: true, success: result == 'SUCCESS', unsuccessful: result != 'SUCCESS', failure: result == 'FAILURE',
                unstable: result == 'UNSTABLE', aborted: result == 'ABORTED',
            ].get(name)
            if (due) {
                evaluate(arguments[0], script)
            }
        }))
    }

    private boolean applies(Closure when) {
        boolean all = true
        evaluate(when, new Reader({ String name, List arguments ->
            switch (name) {
                case 'branch': all &= build.env.BRANCH_NAME == arguments[0]; break
                case 'not': all &= !applies(arguments[0]); break
                case 'triggeredBy': all = false; break
                case 'expression': all &= Declarative.evaluate(arguments[0], script) as boolean; break
                case ['changeset', 'beforeAgent']: break
                default: throw new IllegalStateException("unknown condition ${name}")
            }
        }))
        return all
    }

    /** Passes each section on, with its arguments. A bare word such as `none` is a text. */
    private static class Reader implements Serializable {
        private static final long serialVersionUID = 1L
        private final transient Closure section

        Reader(Closure section) {
            this.section = section
        }

        Object invokeMethod(String name, Object arguments) {
            return section.call(name, arguments as List)
        }

        Object getProperty(String name) {
            return name
        }
    }

    /** Takes assignments as variables of the build. */
    private static class Variables implements Serializable {
        private static final long serialVersionUID = 1L
        private final transient Build build

        Variables(Build build) {
            this.build = build
        }

        void setProperty(String name, Object value) {
            build.env.fill([(name): value.toString()])
        }

        Object getProperty(String name) {
            return name == 'env' ? build.env : build.env.getProperty(name)
        }

        Object credentials(String id) {
            return build.scenario.credentials[id]
        }
    }
}
