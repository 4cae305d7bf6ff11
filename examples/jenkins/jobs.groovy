// Job DSL: a folder with the shared library, and a multibranch job in it. Run it in a seed job, or below `jobs:` of casc.yaml.
folder('shop') {
    description('Deploys the shop with Tidegate.')
    properties {
        // sandboxed; a library for all folders is in casc.yaml
        folderLibraries {
            libraries {
                libraryConfiguration {
                    name('tidegate')
                    defaultVersion('v1.0.0') // a tag, so that the library does not change during a rollout
                    retriever {
                        modernSCM {
                            scm {
                                git {
                                    remote('https://git.example.com/tidegate.git')
                                }
                            }
                            libraryPath('shared-library/')
                        }
                    }
                }
            }
        }
    }
}

multibranchPipelineJob('shop/deploy') {
    branchSources {
        git {
            id('shop')
            remote('https://git.example.com/shop.git')
            credentialsId('git')
        }
    }
    factory {
        workflowBranchProjectFactory {
            scriptPath('Jenkinsfile')
        }
    }
    orphanedItemStrategy {
        discardOldItems {
            daysToKeep(30)
        }
    }
}
